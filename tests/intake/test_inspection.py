"""Strangers' files: what is said of good ones, and how bad ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.intake import Limits, inspect
from flashportrait.media.writer import VideoWriter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def clip(path: Path, frames: int = 10, side: int = 64, rate: int = 25) -> Path:
    """A video of nobody."""
    with VideoWriter(path, Fraction(rate), mark=False) as writer:
        for _ in range(frames):
            writer.write(np.zeros((side, side, 3), np.uint8))
    return path


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_a_portrait_is_described():
    found = inspect(EXAMPLES / "portrait_1.jpg", "portrait")
    assert (found.media, found.width, found.height) == ("picture", 477, 476)
    (face,) = found.faces
    x0, y0, x1, y1 = face.box
    assert face.number == 1
    assert 0 < x0 < x1 < 477
    assert 0 < y0 < y1 < 476
    assert Image.open(io.BytesIO(found.preview)).size == (477, 476)


def test_a_driver_is_described():
    found = inspect(EXAMPLES / "driving_photo.mp4", "driving")
    assert (found.media, found.frames, found.rate, found.seconds) == ("video", 150, 25.0, 6.0)
    assert len(found.faces) == 1


def test_a_template_is_known_by_its_content(template: Path):
    other = template.rename(template.with_suffix(".mp4"))
    found = inspect(other, "driving")
    assert (found.media, found.frames, found.preview) == ("template", 11, b"")
    assert found.seconds == pytest.approx(11 * 1001 / 30000)


def test_a_picture_without_a_face_is_refused_and_a_clip_warned_of(portrait: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no face"):
        inspect(portrait, "portrait")
    assert inspect(portrait, "portrait", faces=False).faces == ()
    found = inspect(clip(tmp_path / "clip.mp4"), "driving")
    assert found.faces == ()
    assert found.warnings == ("no face was found at the clip's beginning",)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (Limits(bytes=100), "MiB: at most"),
        (Limits(seconds=0.2), "lasts 0 s: at most 0.2 s"),
        (Limits(frames=9), "has 10 frames: at most 9"),
        (Limits(pixels=1000), "64x64 pixels: at most 0 million"),
    ],
)
def test_what_is_over_a_limit_is_refused(limits: Limits, complaint: str, tmp_path: Path):
    with pytest.raises(UserError, match=complaint):
        inspect(clip(tmp_path / "clip.mp4"), "driving", limits)


@pytest.mark.parametrize("size", [(16384, 16384), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_states_too_many_pixels_is_refused_unread(size: tuple[int, int], tmp_path: Path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(*size))
    with pytest.raises(UserError, match=r"at most 50 million are taken|can't be read"):
        inspect(path, "portrait")


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello" * 100, b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 40])
@pytest.mark.parametrize("kind", ["portrait", "driving"])
def test_what_is_no_medium_is_refused_by_the_name_it_was_given(content: bytes, kind: str, tmp_path: Path):
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"holiday\.mp4") as refusal:
        inspect(path, kind, name="holiday.mp4")
    assert str(tmp_path) not in str(refusal.value)


def test_swapped_files_are_told_apart(portrait: Path, tmp_path: Path):
    with pytest.raises(UserError, match="one picture"):
        inspect(portrait, "driving")
    with pytest.raises(UserError, match="not a picture"):
        inspect(clip(tmp_path / "clip.mp4"), "portrait")


def test_what_takes_too_long_or_too_much_memory_is_refused_and_leaves_no_process(tmp_path: Path):
    inspect(EXAMPLES / "portrait_1.jpg", "portrait", faces=False)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(UserError, match=r"takes more than 0\.01 s"):
        inspect(EXAMPLES / "driving_photo.mp4", "driving", Limits(time=0.01))
    path = tmp_path / "large.png"
    Image.new("L", (7000, 7000)).save(path)
    with pytest.raises(UserError, match="memory"):
        inspect(path, "portrait", Limits(memory=100 << 20))
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
