"""An interrupted animation goes on, and gives the file of one that was not interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flashportrait import workdir
from flashportrait.cli import build_parser, main
from flashportrait.cli.options import given_settings
from flashportrait.job import Job
from flashportrait.job.running import work_of
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter


@pytest.fixture
def words(toy_model: Path, portrait: Path, template: Path, tmp_path: Path) -> list[str]:
    """An `animate` of two windows, one after the other."""
    options = ["--window", "2", "--overlap", "1", "--schedule", "causal", "--model", str(toy_model), "--device", "cpu"]
    return ["animate", str(portrait), str(template), "-o", str(tmp_path / "out.mp4"), *options]


def interrupt(words: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, frame: int = 7) -> int:
    """Run until a frame of the last window is written."""
    written = VideoWriter.write

    def write(self: VideoWriter, picture: np.ndarray) -> None:
        written(self, picture)
        if self.frames == frame:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", write)
        patch.setattr(workdir, "STATE_INTERVAL_SECONDS", 0.0)
        return main(words)


def test_ctrl_c_keeps_the_progress_and_resume_gives_the_same_video(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: list[np.ndarray],
) -> None:
    out, work = tmp_path / "out.mp4", tmp_path / "out.mp4.work"
    assert main([*words, "--quiet"]) == 0
    assert not work.exists()
    whole = written[:]
    out.unlink()

    assert interrupt(words, monkeypatch, KeyboardInterrupt()) == 130
    assert f"to go on: flashportrait resume {work}" in capsys.readouterr().err
    assert not out.exists()
    assert list(work.glob("window-*.safetensors"))

    monkeypatch.chdir("/")
    written.clear()
    assert main(["resume", str(work), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == 11
    assert told["steps_computed"] < 2 * told["windows"]
    assert np.array_equal(written, whole)
    assert VideoReader(out).info.frames == 11
    assert not work.exists()


def test_an_unfinished_run_is_not_dropped_by_accident(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert interrupt(words, monkeypatch, RuntimeError("crash")) == 1
    capsys.readouterr()
    assert main(words) == 2
    assert "holds an unfinished run" in capsys.readouterr().err
    assert main([*words, "--restart", "--quiet"]) == 0
    assert [path.name for path in tmp_path.glob("out*")] == ["out.mp4"]


def test_every_argument_of_animate_survives_being_stored(
    portrait: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["animate", portrait.name, template.name, "-o", "out.mp4", "--face-box", "1,2,3,4", "--trim", "2f:"]
    words += ["--lora", "style.safetensors", "--head", "0.5", "--no-smooth", "--steps", "3"]
    job = given_settings(build_parser("animate").parse_args(words))
    work = work_of(job, resume=False)
    monkeypatch.chdir("/")
    stored = Job.from_dict(workdir.WorkDirectory.open(tmp_path / work.path).command)
    assert stored.portrait == portrait
    assert stored.output == tmp_path / "out.mp4"
    assert stored.lora == (tmp_path / "style.safetensors",)
    assert (stored.face_box, stored.trim, stored.head, stored.smooth, stored.steps) == (
        (1, 2, 3, 4),
        "2f:",
        0.5,
        False,
        3,
    )
    assert replace(stored, portrait=job.portrait, driving=job.driving, output=job.output, lora=job.lora) == job


def test_resume_refuses_when_an_input_has_changed(
    words: list[str],
    portrait: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert interrupt(words, monkeypatch, KeyboardInterrupt()) == 130
    portrait.write_bytes(portrait.read_bytes() + b"changed")
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "out.mp4.work")]) == 2
    line = capsys.readouterr().err
    assert "portrait" in line
    assert "has changed" in line


def test_resume_refuses_what_is_no_work_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(tmp_path)]) == 2
    assert "is not a work directory" in capsys.readouterr().err


def test_the_folder_stays_if_asked(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--keep-work", "--quiet"]) == 0
    assert (tmp_path / "out.mp4.work" / "manifest.json").is_file()


def test_an_error_before_any_progress_leaves_no_folder(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--size", "5"]) == 2
    assert not list(tmp_path.glob("out*"))
