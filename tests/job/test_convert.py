"""A finished result as another kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clips import make_clip
from flashportrait.errors import UserError
from flashportrait.job import Job, convert
from flashportrait.marking.reading import read_origin
from flashportrait.media.reader import VideoReader


@pytest.fixture
def made(tmp_path: Path, portrait: Path, template: Path) -> Job:
    """A job that has ended: 13 frames of 160x120 with sound."""
    result = make_clip(tmp_path / "result.mp4", 13, size=(160, 120), sound_seconds=0.52)
    return Job(portrait, template, result, label="AI")


def test_frames_times_sound_and_marks_stay(made: Job, tmp_path: Path) -> None:
    output = tmp_path / "result.mov"
    convert(made, output)
    before, after = VideoReader(made.output), VideoReader(output)
    assert (after.info.frames, after.info.rate, after.info.has_audio) == (13, 25, True)
    difference = np.stack(list(after)).astype(float) - np.stack(list(before))
    assert np.abs(difference).mean() < 3  # no second label
    assert read_origin(output).state == "intact"


def test_a_larger_one_is_reduced(made: Job, tmp_path: Path) -> None:
    output = tmp_path / "result.gif"
    convert(made, output, longest=80)
    info = VideoReader(output).info
    assert (info.width, info.height, info.frames) == (80, 60, 13)


def test_a_result_that_is_gone_is_refused(made: Job, tmp_path: Path) -> None:
    made.output.unlink()
    with pytest.raises(UserError, match=r"result\.mp4"):
        convert(made, tmp_path / "result.webm")
    assert not (tmp_path / "result.webm").exists()
