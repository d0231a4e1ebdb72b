"""Linear layers in fp8: as near to exact ones as fp8's rounding allows, and the same for layers of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flashportrait.weights.float8 import Float8Linear, multiplies_float8, multiply_in_float8
from toys import toy_transformer

RELATIVE_STEP = 2.0**-4
"""Half the distance between neighbours of e4m3, three bits of mantissa, relative to the smaller one."""


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=bias).bfloat16()


@pytest.mark.parametrize("shape", [(33, 64), (2, 5, 64), (1, 2, 3, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layer_up_to_fp8s_rounding(shape: tuple[int, ...], bias: bool):
    exact, x = linear(bias), torch.randn(shape).bfloat16()
    result = Float8Linear(exact)(x)
    expected = exact.float()(x.float())
    assert result.shape == expected.shape
    assert result.dtype == x.dtype
    error = (result.float() - expected).norm() / expected.norm()
    assert 0.005 < error < RELATIVE_STEP


def test_rows_and_tokens_are_scaled_apart():
    """A row and a token that are 1024 times as large give results as much larger, and leave the others alone."""
    exact, x = linear(bias=False), torch.randn(5, 64).bfloat16()
    before = Float8Linear(exact)(x)
    with torch.no_grad():
        exact.weight[3] *= 1024
    x[2] /= 1024
    before[:, 3] *= 1024
    before[2] /= 1024
    torch.testing.assert_close(Float8Linear(exact)(x), before, rtol=0, atol=0)


def test_what_fp8_holds_exactly_stays_exact():
    exact = nn.Linear(32, 16, bias=False).bfloat16()
    with torch.no_grad():
        exact.weight.copy_(torch.randint(0, 3, (16, 32)) * 224.0)
        exact.weight[:, 0] = 448.0
    x = torch.randint(0, 2, (4, 32)).bfloat16() * 448
    x[:, 0] = 448.0
    torch.testing.assert_close(Float8Linear(exact)(x), exact(x))


def test_zeros_give_the_bias():
    exact = linear()
    torch.testing.assert_close(Float8Linear(exact)(torch.zeros(2, 64).bfloat16()), exact.bias.expand(2, -1))


def test_all_of_a_block_that_can_be_is_replaced():
    block = toy_transformer(expression_dim=24).bfloat16().blocks[0]
    multiply_in_float8(block)
    kinds = {name: type(part) for name, part in block.named_modules() if hasattr(part, "in_features")}
    assert kinds.pop("attn2.emo_k_proj") is nn.Linear is kinds.pop("attn2.emo_v_proj")  # 24 wide
    assert {*kinds.values()} == {Float8Linear}
    assert len(kinds) == 10  # 4 of each attention, 2 of the feed-forward layer


def test_a_compiled_graph_holds_no_break():
    layer, x = Float8Linear(linear()), torch.randn(33, 64).bfloat16()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


def test_a_cpu_has_no_products_of_fp8():
    assert not multiplies_float8(torch.device("cpu"))
