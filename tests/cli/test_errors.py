"""Everything a user can get wrong: one line on stderr, exit code 2, no file, and no model loaded before it is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clips import make_clip
from flashportrait.cli import main
from flashportrait.media import writer


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", 3)


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """Run a command that must be refused, and give its only line on stderr."""
    assert main(list(map(str, words))) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("flashportrait: error: ")
    return line


def test_bad_inputs_and_outputs_are_refused_before_any_model_is_loaded(
    portrait: Path,
    clip: Path,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "flashportrait.pipeline", None)  # importing it would fail
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    out = tmp_path / "out.mp4"
    before = sorted(tmp_path.iterdir())
    cases = [
        ((tmp_path / "no.png", clip, "-o", out), "there is no file"),
        ((portrait, tmp_path / "no.mp4", "-o", out), "there is no file"),
        ((tmp_path / "text.jpg", clip, "-o", out), "not a picture"),
        ((clip, clip, "-o", out), "not a picture"),
        ((tmp_path / "small.png", clip, "-o", out), "20x20"),
        ((portrait, tmp_path / "empty.mp4", "-o", out), "can't be read as a video"),
        ((portrait, tmp_path / "text.jpg", "-o", out), "text.jpg"),
        ((portrait, tmp_path / "other.safetensors", "-o", out), "safetensors"),
        ((portrait, clip, "-o", tmp_path / "no" / "out.mp4"), "no folder"),
        ((portrait, clip, "-o", tmp_path / "folder.mp4"), "is a folder"),
        ((portrait, clip, "-o", tmp_path / "out.avi"), "kind of file"),
        ((portrait, clip, "-o", tmp_path / "link.mp4"), "also an input"),
        ((portrait, clip, "-o", tmp_path / "hard.mp4"), "also an input"),
        ((portrait, clip, "-o", out, "--trim", "9:12"), "trim"),
        ((portrait, template, "-o", out, "--trim", "9:12"), "trim"),
        ((portrait, clip, "-o", out, "--fps", "fast"), "rate"),
        ((portrait, clip, "-o", out, "--model", "huge"), "no model 'huge'"),
        ((portrait, clip, "-o", out, "--speed", "fast", "--predictor", "newton"), "give one"),
    ]
    for words, reason in cases:
        assert reason in refused(capsys, "animate", *words), words
    assert sorted(tmp_path.iterdir()) == before


def test_bad_settings_are_refused_in_one_line(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("animate", portrait, template, "-o", tmp_path / "out.mp4", "--model", toy_model, "--quiet")
    before = sorted(tmp_path.iterdir())
    for words, reason in (
        (("--predictor", "magic"), "magic"),
        (("--device", "toaster"), "toaster"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--size", "5"), "--size is '5': give a whole number from 16 to 4096"),
        (("--size", "5", "--head", "x", "--seed", ""), "--head is 'x'"),
        (("--window", "2", "--overlap", "2"), "overlap"),
        (("--emotion-scale", "-1"), "--emotion-scale"),
    ):
        line = refused(capsys, *common, *words)
        assert reason in line
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ("--head", "-1"),
        ("--mouth", "loud"),
        ("--face-box", "1,2,3"),
        ("--face-box", "5,5,1,1"),
        ("--face", "0"),
        ("--schedule", "someday"),
        ("--no-such-option",),
    ],
)
def test_bad_usage_exits_with_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["animate", "a.png", "b.mp4", "-o", "c.mp4", *words])
    except SystemExit as left:
        code = left.code
    assert code == 2
    told = capsys.readouterr().err
    assert words[0] in told
    assert "Traceback" not in told


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["animate", str(tmp_path / "a.png"), str(tmp_path / "b.mp4"), "-o", str(tmp_path / "c.mp4"), "--debug"]
    assert main(words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_no_face_names_the_frames_looked_at(
    tmp_path: Path, clip: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shared
    line = refused(capsys, "extract", clip, "-o", tmp_path / "motion.safetensors", "--quiet")
    assert "no face" in line
    assert "--face-box" in line
    assert not (tmp_path / "motion.safetensors").exists()


def test_extract_and_faces_refuse_bad_places(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "end its name in .safetensors" in refused(capsys, "extract", clip, "-o", tmp_path / "motion.mp4")
    assert "no folder" in refused(capsys, "extract", clip, "-o", tmp_path / "no" / "motion.safetensors")
    assert "end its name in .png" in refused(capsys, "faces", clip, "-o", tmp_path / "sheet.mp4")
    assert "no file" in refused(capsys, "faces", tmp_path / "no.png")
    assert "no weight named bigger" in refused(capsys, "download", "bigger")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_only_the_progress(
    toy_model: Path,
    portrait: Path,
    template: Path,
    tmp_path: Path,
    sent: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted_replace(part: Path, path: Path) -> None:
        assert part.exists()
        signal.raise_signal(sent)

    monkeypatch.setattr(writer.os, "replace", interrupted_replace)
    before = sorted(tmp_path.iterdir())
    handler = signal.getsignal(signal.SIGTERM)
    words = ("animate", portrait, template, "-o", tmp_path / "out.mp4", "--model", toy_model, "--quiet")
    refused(capsys, *words, code=code)
    assert {path.name for path in set(tmp_path.iterdir()) - set(before)} == {"out.mp4.work"}
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_reader_who_has_enough_is_no_error() -> None:
    """As in `flashportrait models | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        run = subprocess.run(
            [sys.executable, "-m", "flashportrait", "models"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert run.returncode == 141
    assert run.stderr == ""
