"""What only a GPU shows: fast kernels give what the slow ones give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flashportrait.errors import UserError
from flashportrait.models.self_attention import attend_in_float8
from flashportrait.weights.float8 import Float8Linear, multiplies_float8, rounded
from flashportrait.weights.kernels import ATTENTION, compile_blocks, set_attention
from toys import toy_transformer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.float() - expected.float()).norm() / expected.float().norm())


def given(device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return {
        "hidden_states": noise(1, 36, 3, 16, 16),
        "timestep": torch.full((1,), 900.0, device=device),
        "encoder_hidden_states": noise(1, 4, 8),
        "expression_tokens": noise(1, 3, 5, 16),
    }


def test_float8_layers_multiply_what_they_hold():
    if not multiplies_float8(CUDA):
        pytest.skip("no products of fp8")
    torch.manual_seed(0)
    layer, x = Float8Linear(nn.Linear(256, 128).bfloat16()).cuda(), torch.randn(300, 256).bfloat16().cuda()
    tokens, scale = rounded(x)
    weight = layer.weight.double() * layer.scale.T.double()
    expected = (tokens.double() * scale.double()) @ weight.T + layer.bias.double()
    assert relative(layer(x), expected) < 5e-3


def test_float8_attention_on_the_gpu_is_that_on_the_cpu():
    transformer = toy_transformer(attention_head_dim=128)
    try:
        set_attention(transformer, "flash3-fp8", CUDA)
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 300, 2, 128).bfloat16() for _ in range(3))
    expected = attend_in_float8(query, key, value)
    assert relative(attend_in_float8(query.cuda(), key.cuda(), value.cuda()).cpu(), expected) < 0.06


@pytest.mark.parametrize("kernel", sorted(ATTENTION))
@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_the_network_is_the_cpus_with_each_kernel(kernel: str, compiled: bool):
    sizes = {"attention_head_dim": 128, "expression_dim": 16, "ffn_dim": 512}
    expected = toy_transformer(**sizes)(**given(torch.device("cpu"), torch.float32))
    transformer = toy_transformer(**sizes).to(CUDA, torch.bfloat16)
    try:
        set_attention(transformer, kernel, CUDA)
    except UserError as error:
        pytest.skip(str(error))
    if compiled:
        torch.compiler.reset()
        compile_blocks(transformer)
    result = transformer(**given(CUDA, torch.bfloat16)).cpu()
    assert relative(result, expected) < (0.06 if kernel in ("sage", "flash3-fp8") else 0.03)
