"""Noise of a frame depends on the seed and the frame alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.sampling.noise import FrameNoise


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_any_range_gives_the_same_frames(start, length, seed):
    noise = FrameNoise(seed, 4, 3, 5)
    whole = noise(start, start + length)
    assert whole.shape == (1, 4, length, 3, 5)
    for frame in range(start, start + length):
        assert torch.equal(noise(frame, frame + 1), whole[:, :, frame - start : frame - start + 1])


def test_it_is_standard_normal_and_differs_between_frames_and_seeds():
    frames = FrameNoise(0, 16, 8, 8)(0, 64)
    assert frames.mean().item() == pytest.approx(0, abs=0.02)
    assert frames.std().item() == pytest.approx(1, abs=0.02)
    flat = frames[0].transpose(0, 1).flatten(1)
    correlations = torch.corrcoef(flat) - torch.eye(64)
    assert correlations.abs().max() < 0.2
    assert not torch.equal(FrameNoise(1, 16, 8, 8)(0, 1), frames[:, :, :1])


def test_temperature_is_its_standard_deviation():
    noise = FrameNoise(3, 4, 3, 5, temperature=0.5)
    assert torch.equal(noise(2, 6), 0.5 * FrameNoise(3, 4, 3, 5)(2, 6))
    assert not FrameNoise(3, 4, 3, 5, temperature=0)(2, 6).any()


def test_negative_and_huge_seeds_are_seeds():
    assert not torch.equal(FrameNoise(-1, 1, 2, 2)(0, 1), FrameNoise(2**70, 1, 2, 2)(0, 1))
