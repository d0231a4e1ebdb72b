"""Seams between windows, where the right answer is known: clips drawn from a Gaussian process in time.

The best velocity that a network seeing one window can give is then a matrix, and what a clip sampled in windows should
look like is what it looks like sampled in one.
"""

from __future__ import annotations

import pytest

import seams
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.windows import WindowPlan

NOISE = FrameNoise(seed=0, channels=1500, height=1, width=1)
WINDOW, FRAMES = 21, 69


def jump(order: str, window: int, overlap: int, reach: float) -> float:
    return seams.largest_jump(seams.sample(order, WindowPlan(FRAMES, window, overlap), NOISE, reach))


@pytest.mark.parametrize("reach", [2.0, 5.0])
@pytest.mark.parametrize("overlap", [5, 8])
def test_no_order_shows_where_windows_meet(overlap, reach):
    whole = jump("diagonal", FRAMES, 0, reach)
    assert whole < 1.06
    assert jump("diagonal", WINDOW, overlap, reach) < whole + 0.04
    assert jump("causal", WINDOW, overlap, reach) < whole + 0.08


def test_the_measure_sees_windows_without_overlap():
    assert jump("causal", WINDOW, 0, 5.0) > 1.3
