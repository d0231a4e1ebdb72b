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
import torch.distributed as dist
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-5


def match_statistics(expression: Tensor, branch: Tensor, parallel: Any = None) -> Tensor:
    """Rescales ``expression [b n d]`` to the mean and unbiased std of ``branch [b n d]`` over tokens and channels.

    Computed in float32: a mean over millions of bfloat16 values is worth nothing.

    Args:
        expression, branch: of the same shape.
        parallel: diffusers' configuration of the processes that hold the other tokens, over which the statistics are
            taken as well.
    """
    mean_e, std_e = _mean_std(expression, parallel)
    mean_x, std_x = _mean_std(branch, parallel)
    gain = std_x / (std_e + NORM_EPS)
    return torch.addcmul(mean_x, expression - mean_e, gain).to(branch.dtype)


def _mean_std(tokens: Tensor, parallel: Any = None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased std over tokens and channels, each ``[b 1 1]`` float32.

    On accelerators in one pass. On a CPU ``torch.var_mean`` over two axes takes fifteen times as long as two passes.
    """
    count = tokens[0].numel()
    if tokens.device.type == "cpu":
        mean = tokens.mean(dim=(1, 2), keepdim=True, dtype=torch.float32)
        squares = torch.linalg.vector_norm(tokens - mean, dim=(1, 2), keepdim=True).square()
    else:
        variance, mean = torch.var_mean(tokens.float(), dim=(1, 2), correction=0, keepdim=True)
        squares = variance * count
    if parallel is not None:
        count, mean, squares = _joined(count, mean, squares, parallel)
    return mean, (squares / (count - 1)).sqrt()


@torch.compiler.disable  # compiled code would keep the processes' group for ever
def _joined(count: int, mean: Tensor, squares: Tensor, parallel: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations over all processes of a group, from each one's own (Chan et al.)."""
    group = _group(parallel)
    own = torch.stack([torch.full_like(mean, count), mean, squares])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own, group=group)
    counts, means, sums = torch.stack(parts, dim=1)
    total = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / total
    return total, mean, (sums + counts * (means - mean).square()).sum(dim=0)


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
        frame_tokens: int = 0,
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        image, text = encoder_hidden_states[:, :image_tokens], encoder_hidden_states[:, image_tokens:]
        x = self._attend(query, attn.norm_k(attn.to_k(text)), attn.to_v(text), attention_mask)
        if image_tokens:
            x = x + self._attend(query, attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image))
        if expression_tokens is not None and not _is_zero(expression_scale):
            expression = self._attend_per_frame(attn, query, expression_tokens, frame_tokens)
            x = x + _broadcast(expression_scale, x) * match_statistics(expression, x, self._parallel_config)
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

    def _attend_per_frame(
        self, attn: ExpressionAttention, query: Tensor, tokens: Tensor, frame_tokens: int = 0
    ) -> Tensor:
        """Folds latent frames into the batch: ``query [b (f n) heads d]`` and ``tokens [b f k width]``.

        Where the pass is split along its tokens, the query is this process's part, which may begin and end inside a
        frame: it is filled up to whole frames, and what fills it is cut off again.
        """
        own, start, end = query.shape[1], 0, 0
        if self._parallel_config is not None:
            first, start, end = _place(tokens.shape[1], frame_tokens, own, self._parallel_config)
            query = nn.functional.pad(query, (0, 0, 0, 0, start, end))
            tokens = tokens[:, first : first + query.shape[1] // frame_tokens]
        frames = tokens.shape[1]
        key, value = attn.emo_k_proj(tokens).flatten(0, 1), attn.emo_v_proj(tokens).flatten(0, 1)
        out = self._attend(rearrange(query, "b (f n) h d -> (b f) n h d", f=frames), key, value)
        return rearrange(out, "(b f) n d -> b (f n) d", f=frames)[:, start : start + own]


def _group(parallel: Any) -> Any:
    """The processes that share a pass split along its tokens."""
    return parallel.context_parallel_config._flattened_mesh.get_group()


@torch.compiler.disable
def _place(frames: int, frame_tokens: int, own: int, parallel: Any) -> tuple[int, int, int]:
    """Where a process's tokens lie: first latent frame, tokens missing from its start, and from the last one's end."""
    group = _group(parallel)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    share, rest = divmod(frames * frame_tokens, size)  # as torch.tensor_split shares out
    start = rank * share + min(rank, rest)
    assert own == share + (rank < rest), f"{own} tokens of {frames * frame_tokens} in process {rank} of {size}"
    return start // frame_tokens, start % frame_tokens, -(start + own) % frame_tokens


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
