"""The Normalized Facial Expression Block: its statistics, its locality and its scale."""

from __future__ import annotations

import pytest
import torch

from flashportrait.models.expression_block import ExpressionAttention, match_statistics

FRAMES, TOKENS, WIDTH, HEADS = 3, 5, 16, 2


@pytest.fixture
def attention() -> ExpressionAttention:
    torch.manual_seed(0)
    return ExpressionAttention(WIDTH, HEADS, WIDTH // HEADS, eps=1e-6, expression_dim=6, added_kv_proj_dim=WIDTH)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, FRAMES * TOKENS, WIDTH),
        "encoder_hidden_states": torch.randn(2, 4 + 2, WIDTH),
        "expression_tokens": torch.randn(2, FRAMES, 7, 6),
    }


def test_statistics_become_the_branchs() -> None:
    torch.manual_seed(0)
    expression, branch = 3 * torch.randn(2, 40, 8) + 5, 0.2 * torch.randn(2, 40, 8) - 1
    matched = match_statistics(expression, branch)
    assert torch.allclose(matched.mean((1, 2)), branch.mean((1, 2)), atol=1e-5)
    assert torch.allclose(matched.std((1, 2)), branch.std((1, 2)), rtol=1e-4)


def test_statistics_are_each_samples_own() -> None:
    torch.manual_seed(0)
    expression, branch = torch.randn(2, 10, 4), torch.randn(2, 10, 4)
    alone = match_statistics(expression[:1], branch[:1])
    assert torch.equal(match_statistics(expression, branch)[:1], alone)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_statistics_are_those_of_float64(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    expression = 3 * torch.randn(2, 300, 64, generator=generator) + offset
    branch = torch.randn(2, 300, 64, generator=generator) - offset
    e, x = expression.double(), branch.double()
    deviation_e, deviation_x = (each.flatten(1).std(dim=1)[:, None, None] for each in (e, x))
    mean_e, mean_x = (each.mean(dim=(1, 2), keepdim=True) for each in (e, x))
    expected = (e - mean_e) * deviation_x / (deviation_e + 1e-5) + mean_x
    got = match_statistics(expression, branch)
    assert (got - expected).abs().max() < 2e-6 * expected.abs().max()


def test_constant_expression_gives_the_branchs_mean() -> None:
    branch = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert torch.allclose(match_statistics(torch.full((1, 2, 2), 7.0), branch), torch.full((1, 2, 2), 3.0))


def test_a_frame_attends_to_its_own_tokens_alone(attention: ExpressionAttention) -> None:
    torch.manual_seed(2)
    query = torch.randn(1, FRAMES * TOKENS, HEADS, WIDTH // HEADS)
    tokens = torch.randn(1, FRAMES, 7, 6)
    changed = tokens.clone()
    changed[:, 1] += 1
    attend = attention.processor._attend_per_frame
    same = (attend(attention, query, tokens) == attend(attention, query, changed)).all(-1).view(FRAMES, TOKENS)
    assert same[0].all()
    assert same[2].all()
    assert not same[1].any()


def test_scale_zero_is_no_expression(attention: ExpressionAttention, inputs: dict[str, torch.Tensor]) -> None:
    without = attention(inputs["hidden_states"], inputs["encoder_hidden_states"], image_tokens=4)
    assert torch.equal(attention(**inputs, image_tokens=4, expression_scale=0), without)
    assert torch.allclose(attention(**inputs, image_tokens=4, expression_scale=torch.zeros(2)), without)
    assert not torch.allclose(attention(**inputs, image_tokens=4), without, atol=1e-3)


def test_a_scale_for_each_sample(attention: ExpressionAttention, inputs: dict[str, torch.Tensor]) -> None:
    mixed = attention(**inputs, image_tokens=4, expression_scale=torch.tensor([0.0, 1.0]))
    off = attention(**inputs, image_tokens=4, expression_scale=0)
    on = attention(**inputs, image_tokens=4, expression_scale=1)
    assert torch.allclose(mixed[0], off[0], atol=1e-6)
    assert torch.allclose(mixed[1], on[1], atol=1e-6)


def test_output_is_linear_in_the_scale(attention: ExpressionAttention, inputs: dict[str, torch.Tensor]) -> None:
    zero, one, half = (attention(**inputs, image_tokens=4, expression_scale=scale) for scale in (0, 1, 0.5))
    assert torch.allclose(half, (zero + one) / 2, atol=1e-5)
