"""A model's own sampling settings, and what a call puts in their place."""

from __future__ import annotations

from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.speed import preset
from flashportrait.settings import SamplingSettings

OWN = {"num_inference_steps": 30, "speed": "fast", "window": 6, "overlap": 3}


def test_a_models_own_speed_counts_where_nothing_else_is_said() -> None:
    settings = SamplingSettings.resolve(OWN, None, {})
    assert (settings.num_inference_steps, settings.window) == (30, 6)
    assert settings.predictor == preset("fast")


def test_other_steps_than_the_models_are_computed_exactly() -> None:
    assert SamplingSettings.resolve(OWN, None, {"num_inference_steps": 4}).predictor is None
    assert SamplingSettings.resolve(OWN, None, {"sigmas": (1.0, 0.5)}).predictor is None


def test_a_speed_that_is_asked_for_counts_with_any_steps() -> None:
    given = {"num_inference_steps": 20}
    assert SamplingSettings.resolve(OWN, "balanced", given).predictor == preset("balanced")


def test_a_predictor_that_is_asked_for_counts() -> None:
    predictor = AdaptiveLatentPrediction(interval=3)
    assert SamplingSettings.resolve(OWN, None, {"predictor": predictor}).predictor == predictor
    assert SamplingSettings.resolve(OWN, None, {"predictor": None}).predictor is None
