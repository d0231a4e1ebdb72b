"""Drivers of every kind: frames in the right order, at the right times, and a line for what can't be one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import index_of, make_clip, numbered_frame
from flashportrait.errors import UserError
from flashportrait.media.clip import AnimationReader, PictureReader, is_still, is_swapped, open_clip, source_files
from flashportrait.media.reader import VideoReader


def save(path: Path, index: int, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(numbered_frame(index)).save(path, **options)
    return path


def indices(clip: VideoReader) -> list[int]:
    return [index_of(frame) for frame in clip]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Frames 0 to 11, whose names sort otherwise as text."""
    for index in range(12):
        save(tmp_path / "frames" / f"f{index}.png", index)
    (tmp_path / "frames" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "frames" / "notes.txt").write_text("hello")
    return tmp_path / "frames"


@pytest.mark.parametrize("name", ["frames", "frames/f%d.png", "frames/*.png", "frames/f*"])
def test_pictures_in_natural_order_at_25_unless_told(tmp_path: Path, folder: Path, name: str) -> None:
    clip = open_clip(tmp_path / name)
    assert indices(clip) == list(range(12))
    assert (clip.info.rate, clip.info.frames, clip.audio, clip.warnings) == (25, 12, None, [])
    assert "25 pictures per second are taken; change it with --fps" in clip.notes[0]
    told = open_clip(tmp_path / name, fps="30000/1001")
    assert (told.info.rate, told.info.frames, told.notes) == (Fraction(30000, 1001), 12, [])
    assert told.times[2] == Fraction(2002, 30000)


def test_pictures_are_trimmed_by_time_and_by_frame(folder: Path) -> None:
    assert indices(open_clip(folder, trim="3f:6f")) == [3, 4, 5]
    assert indices(open_clip(folder, trim="0.2:0.4", fps=10)) == [2, 3]


def test_gaps_damage_and_sizes_are_told(tmp_path: Path, folder: Path) -> None:
    (folder / "f4.png").unlink()
    clip = open_clip(folder / "f%d.png")
    assert indices(clip) == [0, 1, 2, 3, *range(5, 12)]
    assert "1 numbers" in clip.warnings[0]
    (folder / "f7.png").write_bytes((folder / "f7.png").read_bytes()[:60])
    clip = open_clip(folder)
    assert indices(clip) == [0, 1, 2, 3, 5, 6, *range(8, 12)]
    assert "10 of 11 frames" in clip.warnings[0]
    Image.new("RGB", (90, 40)).save(folder / "f9.png")
    with pytest.raises(UserError, match=r"f9.png' is 90x40 pixels, the first picture 80x32"):
        list(open_clip(folder))


def test_one_picture_is_held_for_as_many_frames_as_told(tmp_path: Path) -> None:
    picture = save(tmp_path / "smile.png", 5)
    assert indices(open_clip(picture, frames=7, fps=10)) == [5] * 7
    assert is_still(picture)
    with pytest.raises(UserError, match=r"is one picture: say with --frames N"):
        open_clip(picture)
    with pytest.raises(UserError, match=r"--frames is for one picture.*--trim 0f:7f"):
        open_clip(make_clip(tmp_path / "clip.mp4", 3), frames=7)


DURATIONS = [100, 50, 350, 70]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_animations_keep_their_durations(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(numbered_frame(index)) for index in range(4)]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(
        tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=DURATIONS, loop=0, **lossless
    )
    clip = open_clip(tmp_path / f"a{suffix}")
    assert isinstance(clip, AnimationReader)
    assert indices(clip) == [0, 1, 2, 3]
    assert [float(time) for time in clip.times] == pytest.approx([0, 0.1, 0.15, 0.5])
    assert (clip.info.variable_rate, float(clip.info.duration)) == (True, pytest.approx(0.57))
    assert indices(open_clip(tmp_path / f"a{suffix}", fps=10)) == [0, 1, 2, 2, 3, 3]
    assert indices(open_clip(tmp_path / f"a{suffix}", trim="0.1:0.5")) == [1, 2]


@pytest.mark.parametrize(("suffix", "duration", "rate"), [(".webp", 40, 25), (".gif", 40, 25), (".gif", 0, 10)])
def test_an_even_rate_is_known_and_no_duration_is_a_tenth_of_a_second(
    tmp_path: Path, suffix: str, duration: int, rate: int
) -> None:
    frames = [Image.fromarray(numbered_frame(index)) for index in range(5)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=duration)
    info = open_clip(tmp_path / f"a{suffix}").info
    assert (info.rate, info.variable_rate, info.frames) == (rate, False, 5)


def test_transparent_frames_lie_over_grey(tmp_path: Path) -> None:
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[:20] = (200, 0, 0, 255)
    Image.fromarray(clear).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(clear[::-1])])
    first, second = open_clip(tmp_path / "a.png")
    assert (tuple(first[5, 5]), tuple(first[30, 5])) == ((200, 0, 0), (128, 128, 128))
    assert tuple(second[30, 5]) == (200, 0, 0)


def test_videos_and_files_with_odd_names_are_opened_as_they_are(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "take [1] %d*.mp4", 3)
    assert type(open_clip(clip)) is VideoReader
    assert source_files(clip) == [clip]
    save(tmp_path / "f_%d.png", 1)
    assert isinstance(open_clip(tmp_path / "f_%d.png", frames=2), PictureReader)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.org/drive.mp4", "addresses are not fetched: download it"),
        ("rtsp://camera/1", "addresses are not fetched"),
        ("nothing.mp4", "no file"),
        ("f_%04d.png", "no file fits"),
        ("none/*.png", "no file fits"),
        ("empty", "holds no pictures"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        open_clip(Path(name))


def test_swapped_inputs_are_known(tmp_path: Path, folder: Path) -> None:
    picture, clip = save(tmp_path / "face.png", 1), make_clip(tmp_path / "clip.mp4", 3)
    assert is_swapped(clip, picture)
    assert is_swapped(folder, picture)
    assert not is_swapped(picture, clip)
    assert not is_swapped(picture, picture)
    assert not is_swapped(tmp_path / "none.mp4", picture)
