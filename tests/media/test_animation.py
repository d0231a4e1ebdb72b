"""GIF and WebP show every frame at its time, in its colours, and carry the mark."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from clips import index_of, make_clip, numbered_frame
from flashportrait.marking.provenance import DIGITAL_SOURCE_TYPE, is_marked
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter, check_output


def shown(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Milliseconds that each frame of an animation stays, and the frames."""
    with Image.open(path) as image:
        frames = [(frame.convert("RGB"), round(frame.info["duration"])) for frame in ImageSequence.Iterator(image)]
    return [duration for _, duration in frames], [np.asarray(frame) for frame, _ in frames]


def write(path: Path, frames: int, rate: Fraction, times: list[Fraction] | None = None) -> VideoWriter:
    with VideoWriter(path, rate, times=times, model="toy") as writer:
        for index in range(frames):
            writer.write(numbered_frame(index))
    return writer


@pytest.mark.parametrize(
    ("suffix", "rate", "durations"),
    [
        (".gif", Fraction(25), [40] * 9),
        (".gif", Fraction(30), [30, 40, 30] * 3),
        (".webp", Fraction(25), [40] * 9),
        (".webp", Fraction(30), [33, 34, 33] * 3),
    ],
)
def test_frames_keep_their_times(tmp_path: Path, suffix: str, rate: Fraction, durations: list[int]) -> None:
    out = tmp_path / f"out{suffix}"
    writer = write(out, 10, rate)
    stay, frames = shown(out)
    assert [index_of(frame) for frame in frames] == list(range(10))
    assert stay[:-1] == durations
    assert abs(stay[-1] - 1000 / rate) < 11
    assert (writer.size, writer.warnings) == ((80, 32), [])
    with Image.open(out) as image:
        assert image.info["loop"] == 0
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_varying_rate_is_kept(tmp_path: Path, suffix: str) -> None:
    times = [Fraction(0), Fraction(1, 10), Fraction(15, 100), Fraction(1, 2)]
    write(tmp_path / f"out{suffix}", 4, Fraction(8), times)
    assert shown(tmp_path / f"out{suffix}")[0][:3] == [100, 50, 350]


def test_a_gif_leaves_out_what_it_cannot_show_and_says_so(tmp_path: Path) -> None:
    writer = write(tmp_path / "out.gif", 100, Fraction(100))
    stay, frames = shown(tmp_path / "out.gif")
    assert [index_of(frame) for frame in frames] == list(range(0, 100, 2))
    assert set(stay) == {20}
    assert writer.warnings == ["a gif shows at most 50 frames per second: 50 frames are left out"]


@pytest.mark.parametrize(("suffix", "error"), [(".gif", 4), (".webp", 4)])
@pytest.mark.parametrize("size", [(64, 64), (65, 63)])
def test_colours_survive_at_any_size(tmp_path: Path, suffix: str, error: int, size: tuple[int, int]) -> None:
    y, x = np.mgrid[: size[1], : size[0]] / 64
    picture = np.stack([200 * x, 150 * y, 90 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8)
    out = tmp_path / f"out{suffix}"
    with VideoWriter(out, Fraction(25)) as writer:
        for _ in range(3):
            writer.write(picture)
    _, frames = shown(out)
    assert frames[0].shape == picture.shape
    assert np.abs(frames[0].astype(int) - picture).mean() < error


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("frames", [1, 5])
def test_the_mark_is_there_and_the_file_whole(tmp_path: Path, suffix: str, frames: int) -> None:
    out = tmp_path / f"out{suffix}"
    write(out, frames, Fraction(25))
    assert is_marked(out)
    with Image.open(out) as image:
        image.load()
        carried = image.info["xmp"] if suffix == ".webp" else image.info["comment"]
        assert getattr(image, "n_frames", 1) == frames
    assert DIGITAL_SOURCE_TYPE.encode() in carried
    assert b"toy" in carried
    with VideoWriter(out, Fraction(25), mark=False) as writer:
        writer.write(numbered_frame(0))
    assert not is_marked(out)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_sound_is_left_out_with_a_word(tmp_path: Path, suffix: str) -> None:
    reader = VideoReader(make_clip(tmp_path / "in.mp4", 5, sound_seconds=1))
    out = check_output(tmp_path / f"out{suffix}", [reader.path], reader.audio)
    with VideoWriter(out, reader.info.rate, audio=reader.audio) as writer:
        for frame in reader:
            writer.write(frame)
    assert writer.warnings == [f"a {suffix} file holds no sound: the driving video's is left out"]
    assert writer.sound_lost is None
