"""The Normalized Facial Expression Block: cross-attention to text, portrait and expression.

Three attentions share one query. Text and image give ``x``; expression gives ``e``, each latent frame attending
only to its own expression tokens. Identity-agnostic expression features come from another distribution than the
branch they join, so ``e`` is rescaled to the statistics of ``x`` (FlashPortrait, section 3.2; the released weights
take text + image as the branch to match)::

    e'  = (e - mean(e)) * std(x) / (std(e) + 1e-5) + mean(x)
    out = to_out(x + scale * e')
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-5


def match_statistics(expression: Tensor, branch: Tensor) -> Tensor:
    """Rescales ``expression [b n d]`` to the mean and unbiased std of ``branch [b n d]`` over tokens and channels.

    Computed in float32: a mean over millions of bfloat16 values is worth nothing.
    """
    std_e, mean_e = _std_mean(expression)
    std_x, mean_x = _std_mean(branch)
    return ((expression.float() - mean_e) * (std_x / (std_e + NORM_EPS)) + mean_x).to(branch.dtype)


def _std_mean(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased std and mean over tokens and channels, each ``[b 1 1]`` float32.

    In two passes: on a CPU ``torch.std_mean`` takes fifteen times as long. One float32 copy is held at a time; they are
    the most memory that a block ever holds.
    """
    mean = tokens.mean(dim=(1, 2), keepdim=True, dtype=torch.float32)
    norm = torch.linalg.vector_norm(tokens - mean, dim=(1, 2), keepdim=True)
    return norm / (tokens[0].numel() - 1) ** 0.5, mean


class ExpressionAttnProcessor:
    """Attention processor of ``ExpressionAttention``; diffusers' attention backends apply to all three attentions."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: ExpressionAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: None = None,
        *,
        expression_tokens: Tensor | None = None,
        expression_scale: float | Tensor = 1.0,
        image_tokens: int = 0,
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        image, text = encoder_hidden_states[:, :image_tokens], encoder_hidden_states[:, image_tokens:]
        x = self._attend(query, attn.norm_k(attn.to_k(text)), attn.to_v(text), attention_mask)
        if image_tokens:
            x = x + self._attend(query, attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image))
        if expression_tokens is not None and not _is_zero(expression_scale):
            expression = self._attend_per_frame(attn, query, expression_tokens)
            x = x + _broadcast(expression_scale, x) * match_statistics(expression, x)
        return attn.to_out[1](attn.to_out[0](x))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = query.shape[2]
        out = dispatch_attention_fn(
            query,
            key.unflatten(2, (heads, -1)),
            value.unflatten(2, (heads, -1)),
            attn_mask=mask,
            backend=self._attention_backend,
        )
        return out.flatten(2, 3).type_as(query)

    def _attend_per_frame(self, attn: ExpressionAttention, query: Tensor, tokens: Tensor) -> Tensor:
        """Folds latent frames into the batch: ``query [b (f n) heads d]`` and ``tokens [b f k width]``."""
        frames = tokens.shape[1]
        key, value = attn.emo_k_proj(tokens).flatten(0, 1), attn.emo_v_proj(tokens).flatten(0, 1)
        out = self._attend(rearrange(query, "b (f n) h d -> (b f) n h d", f=frames), key, value)
        return rearrange(out, "(b f) n d -> b (f n) d", f=frames)


def _is_zero(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) and scale == 0


def _broadcast(scale: float | Tensor, like: Tensor) -> float | Tensor:
    return scale.to(like.dtype).view(-1, 1, 1) if isinstance(scale, Tensor) else scale


class ExpressionAttention(WanAttention):
    """Wan's cross-attention with bias-free keys and values for expression tokens (not normed, as released).

    Args:
        expression_dim: width of the expression tokens.
        others: as in ``WanAttention``.
    """

    _default_processor_cls = ExpressionAttnProcessor
    _available_processors = [ExpressionAttnProcessor]  # noqa: RUF012 (diffusers' convention)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        eps: float,
        expression_dim: int,
        added_kv_proj_dim: int | None = None,
    ):
        super().__init__(
            dim=dim,
            heads=heads,
            dim_head=dim_head,
            eps=eps,
            added_kv_proj_dim=added_kv_proj_dim,
            cross_attention_dim_head=dim_head,
            processor=ExpressionAttnProcessor(),
        )
        self.emo_k_proj = nn.Linear(expression_dim, self.inner_dim, bias=False)
        self.emo_v_proj = nn.Linear(expression_dim, self.inner_dim, bias=False)
