"""What a run gives back: its frames, saved and shown, and what it reports of itself."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clips import beep_onsets, beeps, make_clip, video_times, write_wav
from flashportrait.errors import UserError
from flashportrait.marking.provenance import container_tags, is_marked
from flashportrait.media.reader import VideoReader
from flashportrait.result import PortraitVideo, RunReport

MIB = 2**20
NTSC = Fraction(30000, 1001)


def video(frames: int = 40, size: int = 64, rate: Fraction = NTSC) -> PortraitVideo:
    """Frames that grow brighter, made as they are asked for."""
    pictures = (np.full((size, size, 3), min(5 * index, 255), np.uint8) for index in range(frames))
    portrait = np.zeros((size, size, 3), np.uint8)
    return PortraitVideo(pictures, length=frames, rate=rate, report=RunReport(), portrait=portrait, model="toy")


def test_a_saved_video_has_its_frames_its_rate_and_the_mark(tmp_path: Path) -> None:
    out = video().save(tmp_path / "out.mp4")
    assert out == tmp_path / "out.mp4"
    made = VideoReader(out)
    assert (made.info.frames, made.info.rate, made.info.has_audio) == (40, NTSC, False)
    assert np.array([frame.mean() for frame in made]) == pytest.approx(5.0 * np.arange(40), abs=3)
    assert is_marked(out)
    assert container_tags("toy")["comment"].encode() in out.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_sound_comes_from_a_clip_a_span_of_it_or_a_sound_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 60, 25, sound_seconds=2.4)
    whole = video(60, rate=Fraction(25)).save(tmp_path / "whole.mp4", audio=clip)
    assert beep_onsets(whole) == pytest.approx([0.5, 1.5], abs=0.03)
    part = VideoReader(clip, trim="1:2")
    cut = video(25, rate=Fraction(25)).save(tmp_path / "cut.mp4", audio=part)
    assert beep_onsets(cut) == pytest.approx([0.5], abs=0.03)
    wave = write_wav(tmp_path / "long.wav", beeps(4))
    short = video(50, rate=Fraction(25)).save(tmp_path / "short.mp4", audio=wave)
    assert beep_onsets(short) == pytest.approx([0.5, 1.5], abs=0.03)


def test_times_that_vary_are_kept(tmp_path: Path) -> None:
    times = [Fraction(tick, 100) for tick in (0, 3, 10, 12, 20, 21)]
    reader = VideoReader(make_clip(tmp_path / "vfr.mp4", 6, times=times, sound_seconds=1))
    assert video_times(video(6, rate=reader.info.rate).save(tmp_path / "out.mp4", audio=reader)) == times


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    silent = make_clip(tmp_path / "silent.mp4", 3)
    (tmp_path / "text.mp3").write_text("la la la")
    taken = video()
    next(iter(taken))
    before = sorted(tmp_path.iterdir())
    for film, path, audio, reason in (
        (video(), "out.mp4", silent, "no sound in"),
        (video(), "out.mp4", VideoReader(silent), "no sound in"),
        (video(), "out.mp4", tmp_path / "no.wav", "no file"),
        (video(), "out.mp4", tmp_path / "text.mp3", "can't be read as sound"),
        (video(), "out.avi", None, "kind of file"),
        (taken, "out.mp4", None, "1 of 40 frames have been taken already"),
    ):
        with pytest.raises(UserError, match=reason):
            film.save(tmp_path / path, audio=audio)
    with pytest.raises(UserError, match="taken already"):
        taken.collect()
    assert sorted(tmp_path.iterdir()) == before


def test_a_notebook_shows_a_small_player(tmp_path: Path) -> None:
    film = video(size=400)
    assert "not made yet" in film._repr_html_()
    film.collect()
    page = film._repr_html_()
    data = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]+)"', page)[1])
    (tmp_path / "shown.mp4").write_bytes(data)
    info = VideoReader(tmp_path / "shown.mp4").info
    assert (info.frames, info.width, info.height) == (40, 320, 320)
    assert is_marked(tmp_path / "shown.mp4")
    assert len(page) < 200_000
    assert len(film.frames) == 40


def test_loading_the_embedded_model_draws_no_bar() -> None:
    code = "from flashportrait import load_pipeline; load_pipeline('nano', device='cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "%" not in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells only with what came before")
def test_peak_memory_is_this_process_own() -> None:
    ballast = np.ones(600 * MIB, np.uint8)
    code = "from flashportrait.result import peak_resident_bytes; print(peak_resident_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 20 * MIB < peak < ballast.nbytes
