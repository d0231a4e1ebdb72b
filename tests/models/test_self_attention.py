"""Self-attention: diffusers' numbers in another form, and the same in fp8 up to its rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanRotaryPosEmbed
from torch import Tensor

from flashportrait.models.self_attention import SelfAttnProcessor, attend_in_float8
from toys import toy_transformer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_diffusers(dtype: torch.dtype):
    torch.manual_seed(0)
    attention = WanAttention(48, heads=2, dim_head=24).to(dtype)
    tokens = torch.randn(2, 2 * 3 * 4, 48).to(dtype)
    angles = WanRotaryPosEmbed(24, (1, 2, 2), 64)(torch.empty(1, 1, 2, 6, 8))
    attention.set_processor(WanAttnProcessor())
    expected = attention(tokens, None, None, angles)
    attention.set_processor(SelfAttnProcessor())
    torch.testing.assert_close(attention(tokens, None, None, angles), expected, rtol=0, atol=0)


def heads(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator).bfloat16() for _ in range(3))
    return 3 * query, key, value  # sharp enough that it matters where a query looks


def exactly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in (query, key, value))).transpose(1, 2)


def error(result: Tensor, expected: Tensor) -> float:
    return float((result.float() - expected).norm() / expected.norm())


def test_in_fp8_it_is_attention_up_to_rounding():
    given = heads(2, 40, 3, 16)
    result = attend_in_float8(*given)
    assert result.shape == given[0].shape
    assert result.dtype == torch.bfloat16
    assert 0.005 < error(result, exactly(*given)) < 0.1


def test_in_fp8_what_all_keys_share_costs_nothing():
    """Without taking it off, keys of 100 more would be rounded to steps of 8 or 16."""
    query, key, value = heads(1, 40, 2, 16)
    plain = error(attend_in_float8(query, key, value), exactly(query, key, value))
    moved = key + 100 * torch.randn(1, 1, 2, 16).bfloat16()
    assert error(attend_in_float8(query, moved, value), exactly(query, moved, value)) < 1.5 * plain


def test_in_fp8_heads_are_scaled_apart():
    query, key, value = heads(1, 40, 2, 16)
    expected = attend_in_float8(query, key, value)
    value = torch.stack([value[:, :, 0], 1024 * value[:, :, 1]], dim=2)
    result = attend_in_float8(query, key, value)
    torch.testing.assert_close(result[:, :, 0], expected[:, :, 0], rtol=0, atol=0)
    torch.testing.assert_close(result[:, :, 1], 1024 * expected[:, :, 1], rtol=1e-2, atol=0)


@pytest.mark.parametrize("float8", [False, True])
def test_a_compiled_block_holds_no_break(float8: bool):
    transformer = toy_transformer().bfloat16()
    block = transformer.blocks[0]
    block.attn1.processor.float8 = float8
    angles = transformer.rope(torch.empty(1, 1, 2, 4, 4))
    given = (torch.randn(1, 8, 32).bfloat16(), torch.randn(1, 4, 32).bfloat16(), torch.randn(1, 6, 32), angles)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), block(*given), rtol=2e-2, atol=2e-2)
