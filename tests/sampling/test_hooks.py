"""Prediction inside a real, toy-sized transformer, through ``enable_cache``."""

from __future__ import annotations

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.sampling.hooks import (
    AdaptiveLatentPredictionConfig,
    layer_ratios,
    network_prediction,
    prediction_stats,
)
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from toys import toy_transformer

STEPS = 8
SIGMAS = [1 - step / STEPS for step in range(STEPS)]


@pytest.fixture
def transformer() -> FlashPortraitTransformer3DModel:
    return toy_transformer()


@torch.no_grad()
def sample(transformer, seed: int = 1, steps: int = STEPS) -> torch.Tensor:
    """Euler with two guidance branches."""
    generator = torch.Generator().manual_seed(seed)
    noise, text = (torch.randn(shape, generator=generator) for shape in ((1, 36, 3, 4, 4), (1, 4, 8)))
    expression = torch.randn(1, 3, 5, 8, generator=generator)
    latents = noise[:, :16]
    for step, sigma in enumerate(SIGMAS[:steps]):
        velocity = torch.zeros_like(latents)
        for name, scale, weight in (("full", 1.0, 3.0), ("text", 0.0, -2.0)):
            with transformer.cache_context(name, step_index=step, num_inference_steps=STEPS, sigma=sigma):
                hidden = torch.cat([latents, noise[:, 16:]], dim=1)
                time = torch.tensor([1000 * sigma])
                velocity += weight * transformer(
                    hidden, time, text, expression_tokens=expression, expression_scale=scale
                )
        latents = latents - velocity / STEPS
    return latents


@pytest.mark.parametrize("target", ["last_block", "blocks", "modules"])
@pytest.mark.parametrize("method", ["alp", "taylor", "newton", "hermite"])
def test_prediction_saves_blocks_and_stays_near(transformer, target, method):
    ran = []
    for block in transformer.blocks:
        block.attn1.to_q.register_forward_hook(lambda *_: ran.append(1))
    expected = sample(transformer)
    assert len(ran) == 3 * 2 * STEPS
    ran.clear()
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3, order=2, target=target, method=method))
    predicted = sample(transformer)
    assert len(ran) == 3 * 2 * 3  # steps 0, 3 and 6
    assert prediction_stats(transformer).full_steps == {"full": [0, 3, 6], "text": [0, 3, 6]}
    assert prediction_stats(transformer).predicted == {"full": 5, "text": 5}
    error = (predicted - expected).norm() / expected.norm()
    assert 0 < error < 0.1


@pytest.mark.parametrize("target", ["last_block", "blocks", "modules"])
def test_interval_one_changes_nothing(transformer, target):
    expected = sample(transformer)
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=1, target=target))
    assert torch.equal(sample(transformer), expected)


@pytest.mark.parametrize("target", ["last_block", "blocks", "modules"])
def test_runs_do_not_touch_and_disabling_restores(transformer, target):
    expected = sample(transformer)
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3, target=target))
    first = sample(transformer)
    sample(transformer, steps=5, seed=2)  # a run given up half-way
    assert torch.equal(sample(transformer), first)
    transformer.disable_cache()
    assert not transformer.is_cache_enabled
    assert torch.equal(sample(transformer), expected)


@torch.no_grad()
def test_contexts_keep_apart(transformer):
    """What one context gives doesn't depend on whether another runs in between."""
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3))
    inputs = torch.randn(STEPS, 1, 36, 1, 4, 4)

    def run(names: str) -> list[torch.Tensor]:
        outputs = []
        for step, sigma in enumerate(SIGMAS):
            for sign, name in enumerate(names):
                with transformer.cache_context(name, step_index=step, num_inference_steps=STEPS, sigma=sigma):
                    time = torch.tensor([1000 * sigma])
                    outputs.append(transformer((-1) ** sign * inputs[step], time, torch.zeros(1, 4, 8)))
        return outputs

    assert all(map(torch.equal, run("ab")[::2], run("a")))


def test_histories_are_freed_after_the_last_step(transformer):
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3))
    sample(transformer)
    hook = transformer._diffusers_hook.get_hook("adaptive_latent_prediction")
    assert all(context.memory_bytes == 0 for context in hook._contexts._state_cache.values())
    assert prediction_stats(transformer).peak_bytes == 2 * 3 * (3 * 2 * 2 * 32) * 4  # branches, values, tokens x width


def test_layer_scale_is_the_ratio_to_the_mean_layer():
    ratios = layer_ratios([[torch.tensor([3.0, 0.0])], [torch.tensor([1.0, 0.0])]])
    assert ratios == [[1.5], [0.5]]


def test_blocks_and_last_block_differ_by_the_layer_scale_alone(transformer):
    results = {}
    for target, layer_scale in (("last_block", True), ("blocks", False), ("blocks", True)):
        transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3, target=target, layer_scale=layer_scale))
        results[target, layer_scale] = sample(transformer)
        transformer.disable_cache()
    assert torch.equal(results["last_block", True], results["blocks", False])
    assert not torch.equal(results["blocks", False], results["blocks", True])


def test_compiled_blocks_keep_one_graph(transformer):
    """The hook is outside the blocks: compiling each with fullgraph=True neither breaks nor changes the result."""
    transformer.enable_cache(AdaptiveLatentPredictionConfig(interval=3, method="newton", order=1))
    expected = sample(transformer)
    torch._dynamo.reset()
    transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.allclose(sample(transformer), expected, atol=1e-6)


def test_enabling_around_a_run(transformer):
    with network_prediction(transformer, AdaptiveLatentPrediction(target="last_block")):
        assert transformer.is_cache_enabled
        with pytest.raises(ValueError, match="enabled already"):
            transformer.enable_cache(AdaptiveLatentPredictionConfig())
    assert not transformer.is_cache_enabled
    for outside in (None, AdaptiveLatentPrediction()):
        with network_prediction(transformer, outside):
            assert not transformer.is_cache_enabled


def test_what_cannot_be_honoured_is_said(transformer):
    with pytest.raises(UserError, match="outside the network"):
        transformer.enable_cache(AdaptiveLatentPredictionConfig(target="guided"))
    with pytest.raises(UserError, match="call enable_cache"):
        prediction_stats(transformer)
    transformer.enable_cache(AdaptiveLatentPredictionConfig(coordinate="sigma"))
    with (
        transformer.cache_context("full"),
        pytest.raises(UserError, match="lacks step_index, num_inference_steps, sigma"),
    ):
        transformer(torch.zeros(1, 36, 1, 4, 4), torch.tensor([1000.0]), torch.zeros(1, 4, 8))
