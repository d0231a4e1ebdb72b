"""The baselines really act, and make the calls they claim."""

from __future__ import annotations

import pytest
import torch

from flashportrait.evaluation.paper import methods as acceleration_methods
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from toys import toy_transformer

STEPS, LAYERS = 12, 3


@pytest.fixture(scope="module")
def methods():
    acceleration_methods.register_blocks()
    return acceleration_methods


@pytest.fixture
def transformer() -> FlashPortraitTransformer3DModel:
    return toy_transformer(num_layers=LAYERS)


@torch.no_grad()
def sample(transformer, ran: list[int]) -> torch.Tensor:
    """Euler on one branch; ``ran`` takes one item a block that runs."""
    hook = [block.attn1.to_q.register_forward_hook(lambda *_: ran.append(1)) for block in transformer.blocks]
    noise, text = torch.randn(1, 36, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 4, 8)
    latents = noise[:, :16]
    for step in range(STEPS):
        sigma = 1 - step / STEPS
        with transformer.cache_context("w0", step_index=step, num_inference_steps=STEPS, sigma=sigma):
            hidden_states = torch.cat([latents, noise[:, 16:]], dim=1)
            velocity = transformer(
                hidden_states=hidden_states, timestep=torch.tensor([1000 * sigma]), encoder_hidden_states=text
            )
        latents = latents - velocity / STEPS
    for each in hook:
        each.remove()
    return latents


def test_taylorseer_makes_the_calls_asked_for(methods, transformer):
    for calls in (6, 4, 3):
        config = next(m for m in methods.caches(calls, STEPS, [], None, lambda _: False)).cache()
        transformer.enable_cache(config)
        ran: list[int] = []
        sample(transformer, ran)
        transformer.disable_cache()
        assert len(ran) == calls * LAYERS


@pytest.mark.parametrize("family", ["FirstBlockCache", "SeaCache", "TeaCache", "MagCache"])
def test_a_cache_saves_blocks_as_its_threshold_rises(methods, transformer, family):
    exact, runs, errors = sample(transformer, []), [], []
    ratios = [1.0 + 0.01 * step for step in range(STEPS)]
    for threshold in (1e-6, 1e6):
        chosen = methods.caches(4, STEPS, ratios, lambda *_, t=threshold: t, lambda name: name.startswith(family))
        method = next(method for method in chosen if method.family == family)
        transformer.enable_cache(method.cache())
        ran: list[int] = []
        errors.append(float((sample(transformer, ran) - exact).norm()))
        transformer.disable_cache()
        runs.append(len(ran))
    assert runs[0] == STEPS * LAYERS
    assert runs[1] <= STEPS + 2 * LAYERS  # FirstBlockCache runs its first block at every step
    assert errors[0] < 1e-5 < errors[1]
    assert torch.equal(sample(transformer, []), exact)


def test_residual_magnitudes_are_measured_in_the_network(methods, transformer):
    with methods.ResidualMagnitudes(transformer) as magnitudes:
        sample(transformer, [])
    ratios = magnitudes.ratios(STEPS)
    assert len(ratios) == STEPS
    assert ratios[0] == 1
    assert all(0.5 < ratio < 2 for ratio in ratios)
    assert "run_blocks" not in vars(transformer)
