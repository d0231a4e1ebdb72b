"""What the benchmark of seams says of windows of a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedded_cases import framed_photo
from flashportrait.face.motion import MotionFeatures
from flashportrait.rig.mesh import average_landmarks
from flashportrait.sampling.windows import WindowPlan
from flashportrait.training.photos import Photo
from seams import Clip, cost, means, psnr, seams

PLAN = WindowPlan(14, 8, 2)
"""Two windows, which meet at frames 21 and 29."""


@pytest.fixture
def clip() -> Clip:
    photo = Photo(torch.full((3, 256, 256), 0.5), average_landmarks((128.0, 120.0), 140.0), torch.zeros(57))
    return Clip("grey", framed_photo(photo), MotionFeatures(np.zeros((53, 57), np.float32), 25))


def brightening(jumps: dict[int, int]) -> np.ndarray:
    """Frames [53 256 256 3] that are brighter by 1 each than the one before, at some by more."""
    steps = np.array([jumps.get(frame, 1) for frame in range(53)])
    return np.broadcast_to(steps.cumsum()[:, None, None, None], (53, 256, 256, 3)).astype(np.uint8)


def test_a_jump_counts_where_windows_meet(clip: Clip) -> None:
    assert seams(clip, brightening({}), PLAN) == {"seam": 1, "worst": 1}
    assert seams(clip, brightening({29: 6}), PLAN) == {"seam": 6, "worst": 6}
    assert seams(clip, brightening({25: 6}), PLAN) == {"seam": 1, "worst": 1}
    assert seams(clip, brightening({29: 6}), WindowPlan(14, 14, 0)) == {}, "one window meets none"


def test_cost_is_counted_in_computed_steps_and_frames_seen() -> None:
    assert cost(PLAN) == {"passes": 10, "seen": pytest.approx(16 / 14)}


def test_psnr_of_frames() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == pytest.approx(0)
    assert psnr(black, black + np.uint8(51)) == pytest.approx(13.98, abs=0.01)


def test_means_are_over_clips_with_their_standard_error() -> None:
    rows = [
        {"reference": "turned", "clip": name, "window": 8, "overlap": 3, "seam": seam, "jaw": jaw}
        for name, seam, jaw in (("a", 1.0, 0.5), ("b", 1.2, None))
    ]
    (mean,) = means(rows)
    assert mean["clips"] == 2
    assert mean["seam"] == (pytest.approx(1.1), pytest.approx(0.1))
    assert mean["jaw"] == (0.5, None)
