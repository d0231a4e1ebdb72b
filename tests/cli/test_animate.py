"""`animate` end to end with a toy model: what comes out, what is reported, what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import make_clip, video_times
from flashportrait.cli import main
from flashportrait.marking.provenance import is_marked
from flashportrait.media.reader import VideoReader

NTSC = Fraction(30000, 1001)


def animate(model: Path, *words: object) -> int:
    return main(["animate", *map(str, words), "--model", str(model), "--device", "cpu", "--threads", "1"])


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_a_template_gives_a_video_of_its_length_and_rate(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, template, "-o", out, "--json", "--quiet") == 0
    made, told = VideoReader(out), summary(capsys)
    assert (made.info.frames, made.info.rate, made.info.has_audio) == (11, NTSC, False)
    assert (told["frames"], told["rate"], told["size"]) == (11, "30000/1001", [32, 32])
    assert told["steps_computed"] == 2 * told["windows"]
    assert told["steps_predicted"] == 0
    assert {"load", "motion", "denoise", "decode", "total"} <= told["seconds"].keys()
    assert told["peak_memory_bytes"] > 1e6
    assert is_marked(out)


@pytest.mark.usefixtures("no_faces_needed")
def test_a_video_gives_as_many_frames_with_its_sound(
    toy_model: Path, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 23, NTSC, sound_seconds=0.8)
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, clip, "-o", out, "--json") == 0
    made, told = VideoReader(out), summary(capsys)
    assert (made.info.frames, made.info.rate, made.info.has_audio) == (23, NTSC, True)
    assert told["missing_faces"] == [1]
    assert animate(toy_model, portrait, clip, "-o", out, "--no-audio", "--trim", "3f:8f", "--quiet") == 0
    assert (VideoReader(out).info.frames, VideoReader(out).info.has_audio) == (5, False)


@pytest.mark.usefixtures("no_faces_needed")
def test_a_varying_rate_is_kept_and_fps_makes_it_even(toy_model: Path, portrait: Path, tmp_path: Path) -> None:
    times = [Fraction(tick, 100) for tick in (0, 3, 10, 12, 20, 21)]
    clip = make_clip(tmp_path / "vfr.mp4", 6, times=times)
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, clip, "-o", out, "--quiet") == 0
    assert video_times(out) == times
    assert animate(toy_model, portrait, clip, "-o", out, "--fps", "50", "--quiet") == 0
    info = VideoReader(out).info
    assert (info.rate, info.variable_rate) == (50, False)


@pytest.mark.usefixtures("no_faces_needed")
def test_compare_sets_portrait_driver_and_result_side_by_side(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 5, size=(96, 48))
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, clip, "-o", out, "--compare", "--quiet") == 0
    made = VideoReader(out)
    assert (made.info.width, made.info.height, made.info.frames) == (32 + 64 + 32, 32, 5)
    frame = next(iter(made)).astype(int)
    assert frame[:, :32].std() > 20
    driver = frame[20:, 32:96]
    assert driver[:, :28, 0].mean() > 150 > 60 > driver[:, :28, 2].mean()
    assert animate(toy_model, portrait, template, "-o", out, "--compare", "--quiet") == 0
    assert VideoReader(out).info.width == 64


def test_the_seed_alone_decides(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, written: list[np.ndarray]
) -> None:
    for seed in (3, 3, 4):
        assert animate(toy_model, portrait, template, "-o", tmp_path / "out.mp4", "--seed", seed, "--quiet") == 0
    first, again, other = np.stack(written).reshape(3, 11, 32, 32, 3)
    assert np.array_equal(again, first)
    assert not np.array_equal(other, first)


def test_settings_reach_the_pipeline(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", 6, "--predictor", "newton:interval=2,order=1", "--window", 2, "--overlap", 1]
    more = ["--size", 48, "--schedule", "causal", "--head", 0, "--no-smooth", "--trim", "2f:10f", "--json", "--quiet"]
    assert animate(toy_model, portrait, template, "-o", tmp_path / "out.mp4", *options, *more) == 0
    told = summary(capsys)
    assert (told["frames"], told["size"], told["windows"]) == (8, [48, 48], 2)
    assert told["steps_computed"] + told["steps_predicted"] == 12
    assert told["steps_predicted"] > 0


def test_quiet_says_nothing_and_the_usual_run_says_where_the_result_is(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, template, "-o", out, "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert animate(toy_model, portrait, template, "-o", out) == 0
    assert f"{out}: 11 frames of 32x32 at 30000/1001" in capfd.readouterr().out


@pytest.mark.usefixtures("no_faces_needed")
def test_a_cut_off_driver_is_used_as_far_as_it_goes_with_a_warning(
    toy_model: Path, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_clip(tmp_path / "whole.mp4", 60, sound_seconds=2, muxer_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    assert animate(toy_model, portrait, cut, "-o", tmp_path / "out.mp4", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert "flashportrait: warning: " in captured.err
    assert any("cut short" in warning for warning in told["warnings"])
    assert told["frames"] == VideoReader(tmp_path / "out.mp4").info.frames < 60


def test_a_failure_on_the_way_leaves_no_file(
    toy_model: Path,
    portrait: Path,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from flashportrait.media.writer import VideoWriter

    before = {path.name for path in tmp_path.iterdir()}
    for error, code, line in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("two\nlines"), 1, "internal error: RuntimeError: two lines; run with --debug"),
        (OSError(28, "No space left on device"), 2, "disk is full"),
    ):
        written = VideoWriter.write

        def write(self: VideoWriter, frame: np.ndarray, error: BaseException = error, written: Any = written) -> None:
            written(self, frame)
            if self.frames == 3:
                raise error

        if code == 2:
            monkeypatch.setattr(av.video.frame.VideoFrame, "from_ndarray", _raiser(error))
        else:
            monkeypatch.setattr(VideoWriter, "write", write)
        assert animate(toy_model, portrait, template, "-o", tmp_path / "out.mp4", "--quiet", "--restart") == code
        assert line in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} - before <= {"out.mp4.work"}
        monkeypatch.undo()


def _raiser(error: BaseException) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return staticmethod(fail)
