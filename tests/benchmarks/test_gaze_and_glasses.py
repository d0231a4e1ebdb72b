"""What is read of gaze, and the slope that a few who look aside don't change."""

from __future__ import annotations

import numpy as np
import pytest

from flashportrait.face.motion import BLENDSHAPE_NAMES
from gaze_and_glasses import gaze, median_slope


def test_gaze_is_counted_to_where_the_angles_grow() -> None:
    rows = np.zeros((2, 57))
    for row, name, value in ((0, "eyeLookOutLeft", 0.4), (0, "eyeLookInRight", 0.2), (1, "eyeLookDownLeft", 0.6)):
        rows[row, 6 + BLENDSHAPE_NAMES.index(name)] = value
    np.testing.assert_allclose(gaze(rows), [[0.3, 0], [0, -0.3]])


def test_a_few_that_lie_aside_leave_the_slope() -> None:
    x = np.linspace(-0.2, 0.2, 41)
    y = 0.1 - 2 * x
    y[:6] += 1.0
    assert median_slope(x, y) == pytest.approx(-2, abs=0.05)
    assert abs(np.polyfit(x, y, 1)[0] + 2) > 0.05
