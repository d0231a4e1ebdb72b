"""A portrait that follows frames as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.job import LivePortrait
from flashportrait.media.reader import VideoReader

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """A face that begins to talk."""
    return list(VideoReader(EXAMPLES / "driving_talking.mp4", ":1"))


@pytest.fixture
def live() -> LivePortrait:
    return LivePortrait(EXAMPLES / "drawn_2.png", side=128)


def test_the_first_frame_is_at_rest_and_others_move(live: LivePortrait, frames: list[np.ndarray]) -> None:
    drawn = [live.draw(frame) for frame in frames[:10]]
    with Image.open(EXAMPLES / "drawn_2.png") as image:
        still = np.asarray(image.convert("RGB").resize(drawn[0].shape[1::-1], Image.Resampling.LANCZOS)).astype(float)
    from_portrait = [np.abs(picture - still).mean() for picture in drawn]
    assert max(drawn[0].shape) == 128
    assert from_portrait[0] < 2.5  # levels of 255
    assert max(np.abs(picture.astype(float) - drawn[0]).mean() for picture in drawn) > 0.3


def test_rest_begins_anew(live: LivePortrait, frames: list[np.ndarray]) -> None:
    first = live.draw(frames[0])
    moved = live.draw(frames[20])
    live.rest()
    assert np.array_equal(live.draw(frames[20]), first)
    assert not np.array_equal(moved, first)


def test_nobody_is_nothing_and_the_next_face_is_found(live: LivePortrait, frames: list[np.ndarray]) -> None:
    assert live.draw(np.zeros_like(frames[0])) is None
    first = live.draw(frames[0])
    assert live.draw(np.zeros_like(frames[0])) is None
    assert np.array_equal(live.draw(frames[0]), first)


def test_a_portrait_without_a_face_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "nobody.png")
    with pytest.raises(UserError, match="no face"):
        LivePortrait(tmp_path / "nobody.png")
