"""What people bring and share, through the command line with a toy model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clips import make_clip, numbered_frame
from flashportrait.cli import main
from flashportrait.marking.provenance import is_marked
from flashportrait.media import audio
from flashportrait.media.clip import open_clip
from flashportrait.media.reader import VideoReader


def last_json(output: str) -> dict[str, Any]:
    """The one JSON object on stdout."""
    (line,) = output.strip().splitlines()
    return json.loads(line)


pytestmark = pytest.mark.usefixtures("no_faces_needed")


def test_sound_that_fails_late_gives_the_video_and_exit_code_3(
    toy_model: Path,
    portrait: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = make_clip(tmp_path / "in.mkv", 50, sound_seconds=2, sound_codec="pcm_s16le")
    out = tmp_path / "out.mp4"

    class Failing(audio._Resampler):
        calls = 0

        def __call__(self, frame: object) -> list:
            Failing.calls += 1
            if Failing.calls > 100:  # the check before the run takes about half of them
                raise ValueError("no more sound")
            return super().__call__(frame)

    monkeypatch.setattr(audio, "_Resampler", Failing)
    words = ["animate", str(portrait), str(clip), "-o", str(out), "--model", str(toy_model), "--quiet", "--json"]
    assert main(words) == 3
    summary = last_json(capsys.readouterr().out)
    assert "no more sound" in summary["sound_lost"]
    assert any("lacks sound" in line for line in summary["warnings"])
    assert len(list(VideoReader(out))) == 50
    assert not (tmp_path / "out.mp4.work").exists()


def test_sound_that_cannot_be_encoded_is_refused_before_the_model_is_loaded(
    portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mkv", 5, sound_seconds=1, sound_codec="pcm_s16le")
    monkeypatch.setitem(sys.modules, "flashportrait.pipeline", None)
    monkeypatch.setattr(audio, "encoder_rate", lambda taken, rate: 40_000)  # as if rates were not chosen
    assert main(["animate", str(portrait), str(clip), "-o", str(tmp_path / "out.mp4")]) == 2
    assert "--no-audio" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("output", ["out.gif", "out.webp", "out.m4v", "frames", "f_%04d.png"])
def test_every_kind_of_output_comes_from_a_folder_of_frames(
    toy_model: Path, portrait: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(6):
        Image.fromarray(numbered_frame(index)).save(tmp_path / "in" / f"{index}.png")
    words = ["animate", str(portrait), str(tmp_path / "in"), "-o", str(tmp_path / output), "--model", str(toy_model)]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert "25 pictures per second" in captured.err
    assert last_json(captured.out)["frames"] == 6
    made = sorted(tmp_path.glob("frames/*.png")) + sorted(tmp_path.glob("f_*.png"))
    if output.startswith("f"):
        assert len(made) == 6
    elif output != "out.webp":  # whose encoder joins frames that look the same, as a toy's do
        assert open_clip(tmp_path / output).info.frames == 6
    assert all(is_marked(path) for path in made or [tmp_path / output])
    assert not list(tmp_path.glob(".*part*"))


def test_one_picture_drives_as_many_frames_as_told(
    toy_model: Path, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "smile.png")
    words = ["animate", str(portrait), str(tmp_path / "smile.png"), "-o", str(tmp_path / "out.mp4"), "--quiet"]
    assert main(words) == 2
    assert "--frames N" in capsys.readouterr().err
    assert main([*words, "--frames", "9", "--model", str(toy_model)]) == 0
    assert VideoReader(tmp_path / "out.mp4").info.frames == 9


def test_swapped_inputs_and_addresses_are_told(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 3)
    assert main(["animate", str(clip), str(portrait), "-o", str(tmp_path / "out.mp4")]) == 2
    assert "give the picture first" in capsys.readouterr().err
    assert main(["animate", str(portrait), "https://example.org/a.mp4", "-o", str(tmp_path / "out.mp4")]) == 2
    assert "addresses are not fetched" in capsys.readouterr().err
