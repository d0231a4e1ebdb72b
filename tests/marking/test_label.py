"""A label: within the picture at any size, in its corner, legible on anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.marking.label import CORNERS, Label


def luminance(frame: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB [h w 3], as WCAG 2 defines it."""
    value = frame / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(1, 25), st.sampled_from(CORNERS))
def test_it_fits_any_picture_and_leaves_the_given_one_alone(height: int, width: int, size: float, corner: str) -> None:
    frame = np.full((height, width, 3), 128, np.uint8)
    made = Label("Made by AI", corner, size).draw(frame)
    assert made.shape == frame.shape
    assert made.dtype == np.uint8
    assert (frame == 128).all()


@pytest.mark.parametrize("corner", CORNERS)
def test_it_is_in_its_corner(corner: str) -> None:
    changed = np.argwhere(
        (Label("AI-generated", corner=corner).draw(np.full((300, 400, 3), 255, np.uint8)) != 255).any(-1)
    )
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert (bottom < 40) if corner.startswith("top") else (top > 260)
    assert (right < 200) if corner.endswith("left") else (left > 200)


@pytest.mark.parametrize("ground", ["white", "black", "grey", "noise", "checks"])
def test_words_stand_out_from_any_picture(ground: str) -> None:
    shape = (256, 256, 3)
    rows, columns = np.mgrid[:256, :256]
    frame = {
        "white": np.full(shape, 255),
        "black": np.zeros(shape),
        "grey": np.full(shape, 128),
        "noise": np.random.default_rng(0).integers(0, 256, shape),
        "checks": np.repeat((255 * ((rows + columns) % 2))[..., None], 3, -1),
    }[ground].astype(np.uint8)
    label = Label("AI-generated", size=20)
    made = luminance(label.draw(frame))
    on_black = luminance(label.draw(np.zeros(shape, np.uint8)))
    plate = (label.draw(np.full(shape, 255, np.uint8)) < 80).all(-1)
    words = on_black > 0.98
    assert words.sum() > 500
    assert plate.sum() > 2000
    assert (made[words].min() + 0.05) / (made[plate].max() + 0.05) > 7


def test_words_are_smooth() -> None:
    made = Label("AI-generated").draw(np.zeros((512, 512, 3), np.uint8))
    assert len(np.unique(made)) > 20


@pytest.mark.parametrize(("text", "reason"), [("", "one line"), ("a\nb", "one line"), ("合成", "lacks 合 成")])
def test_what_cannot_be_written_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Label(text)
    with pytest.raises(UserError, match="choose top-left"):
        Label("AI", corner="middle")
