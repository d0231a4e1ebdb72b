"""From a folder in the released layout to frames, at toy size: as the 14B is used, in bfloat16, planned or not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_loading import diffusers_wan
from test_official_transformer import TOY, reference

from flashportrait.checkpoints import config as released_config
from flashportrait.face.motion import PDFGC, MotionFeatures
from flashportrait.loading import load_pipeline
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.weights.plan import Plan

FITTING = {"image_dim": 32, "text_dim": 32, "expression_dim": 16, "text_len": 6}
"""Widths at which the toy encoders' outputs fit the toy transformer."""


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, with a small model in the released layout."""
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path))
    monkeypatch.setattr(released_config, "TRANSFORMER_14B", released_config.TRANSFORMER_14B | TOY | FITTING)
    diffusers_wan(tmp_path / "Wan2.1-I2V-14B-720P-Diffusers")
    state = reference(**FITTING).state_dict()
    torch.save({key: tensor.bfloat16() for key, tensor in state.items()}, tmp_path / "transformer.pt")
    torch.manual_seed(0)
    encoder = PortraitEncoder(token_dim=16, resampler_dim=16, resampler_depth=1)
    torch.save(encoder.state_dict(), tmp_path / "portrait_encoder.pt")
    return tmp_path


def frames(plan: Plan | None, prompt: str = "") -> np.ndarray:
    """A clip of 6 frames in windows of 2 latent frames."""
    pipeline = load_pipeline("14b", "cpu", plan=plan)
    rows = np.random.default_rng(0).normal(size=(6, PDFGC.width)).astype(np.float32)
    portrait = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    video = pipeline(
        portrait,
        MotionFeatures(rows, Fraction(25), PDFGC),
        prompt=prompt,
        size=64,
        num_inference_steps=2,
        window=2,
        overlap=1,
        progress=False,
    )
    return np.stack(list(video)).astype(np.float32)


@pytest.mark.usefixtures("released")
def test_the_released_layout_makes_frames():
    plain = frames(None)
    assert plain.shape == (6, 64, 64, 3)
    assert plain.std() > 1, "something is in the picture"
    assert np.abs(frames(None, prompt="singing") - plain).mean() > 0.1, "the prompt is heard"


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("storage", ["bf16", "fp8"])
@pytest.mark.parametrize("placement", ["resident", "offload"])
def test_a_plan_changes_the_memory_and_not_the_frames(storage: str, placement: str):
    planned = frames(Plan(storage, placement, placement, 2, 1, 0, 0, 0.0), prompt="singing")
    difference = np.abs(planned - frames(None, prompt="singing")).mean()
    assert difference == 0 if storage == "bf16" else difference < 20
