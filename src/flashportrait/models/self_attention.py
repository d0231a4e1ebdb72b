"""Self-attention of a block: all tokens of a window with each other, turned by their place in the clip."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class SelfAttnProcessor:
    """Attention processor of a block's self-attention; diffusers' backends and context parallelism apply.

    The same numbers as diffusers' ``WanAttnProcessor``, which turns even and odd channels apart; written as one
    expression a compiled pass takes 1% less. And 8-bit attention, which diffusers doesn't dispatch to. Where a pass is
    split among processes that doesn't serve (``distributed.sequence`` refuses it).
    """

    _attention_backend: Any = None
    _parallel_config: Any = None
    float8 = False
    """Whether to attend by :func:`attend_in_float8`."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        # One after another, each turned before the next is computed: what turning takes is this moment's memory.
        query = self._placed(attn.norm_q(attn.to_q(hidden_states)), attn.heads, rotary_emb)
        key = self._placed(attn.norm_k(attn.to_k(hidden_states)), attn.heads, rotary_emb)
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        if self.float8:
            out = attend_in_float8(query, key, value)
        else:
            attend = dispatch_attention_fn if self._parallel_config is None else _attend_together
            out = attend(
                query,
                key,
                value,
                attn_mask=attention_mask,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).type_as(query)))

    def _placed(self, tokens: Tensor, heads: int, rotary_emb: tuple[Tensor, Tensor] | None) -> Tensor:
        split = tokens.unflatten(2, (heads, -1))
        return split if rotary_emb is None else turned(split, *rotary_emb)


@torch.compiler.disable
def _attend_together(*tokens: Tensor, **options: Any) -> Tensor:
    """Attention of a pass that is split among processes: diffusers' exchange can't be compiled."""
    return dispatch_attention_fn(*tokens, **options)


def turned(tokens: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary position embedding: neighbouring channels ``(x, y)`` become ``(x cos - y sin, x sin + y cos)``.

    Args:
        tokens: ``[b n heads d]``.
        cosines, sines: ``[1 n 1 d]``, each value twice.
    """
    x, y = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    across = torch.stack([-y, x], dim=-1).flatten(-2)
    return (tokens * cosines + across * sines).type_as(tokens)


def attend_in_float8(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlashAttention-3 on fp8 (e4m3) values with a scale for each head, summed in float32.

    A key's part that all keys have in common adds the same to every score of a query, which softmax doesn't see; it is
    taken off first, as in SageAttention (arXiv 2410.02367), since it would use up the eight bits.

    Args:
        query, key, value: ``[b n heads d]`` bfloat16 on a Hopper GPU; on a CPU a slow reference.

    Returns:
        ``[b n heads d]`` bfloat16.
    """
    key = key - key.mean(dim=1, keepdim=True, dtype=torch.float32).to(key.dtype)
    values, scales = zip(*map(_rounded_by_head, (query, key, value)), strict=True)
    return _flash3_float8(*values, *scales)


def _rounded_by_head(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens in fp8, and each head's scale, float32 ``[b heads]``."""
    scale = (tokens.abs().amax(dim=(1, 3)).float() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    wide = (tokens.float() / scale[:, None, :, None]).clamp(-LARGEST, LARGEST)
    return wide.to(torch.float8_e4m3fn), scale


_SCHEMA = "(Tensor query, Tensor key, Tensor value, Tensor query_scale, Tensor key_scale, Tensor value_scale) -> Tensor"


@torch.library.custom_op("flashportrait::flash3_float8", mutates_args=(), device_types="cuda", schema=_SCHEMA)
def _flash3_float8(
    query: Tensor, key: Tensor, value: Tensor, query_scale: Tensor, key_scale: Tensor, value_scale: Tensor
) -> Tensor:
    """An operator of its own, so that compiled graphs hold it whole."""
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError:
        from fa3_fwd_interface import flash_attn_func
    scales = {"q_descale": query_scale, "k_descale": key_scale, "v_descale": value_scale}
    return flash_attn_func(query, key, value, **scales)


@_flash3_float8.register_fake
def _shape(
    query: Tensor, key: Tensor, value: Tensor, query_scale: Tensor, key_scale: Tensor, value_scale: Tensor
) -> Tensor:
    return torch.empty_like(query, dtype=torch.bfloat16)


@_flash3_float8.register_kernel("cpu")
def _reference(
    query: Tensor, key: Tensor, value: Tensor, query_scale: Tensor, key_scale: Tensor, value_scale: Tensor
) -> Tensor:
    """The same from widened values: all but the rounding of the weights of the values."""

    def widened(tokens: Tensor, scale: Tensor) -> Tensor:
        return (tokens.float() * scale[:, None, :, None]).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        widened(query, query_scale), widened(key, key_scale), widened(value, value_scale)
    )
    return out.transpose(1, 2).bfloat16()
