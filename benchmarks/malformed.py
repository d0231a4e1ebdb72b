"""Malformed files of every kind, the same for a seed: damaged, of a wrong type, with headers that lie, bombs."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flashportrait.media.writer import VideoWriter
from fuzz import damaged, make_files

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
MEDIA_SUFFIXES = (".jpg", ".png", ".mp4")


@dataclass(frozen=True)
class Case:
    """One post."""

    kind: str
    """What was done to a file."""
    field: str
    """``portrait`` or ``driving``: which of the two files it is; the other is whole."""
    name: str
    content: bytes


def cases(folder: Path, count: int, seed: int, media: Path | None = None) -> Iterator[Case]:
    """So many posts: each of :func:`crafted` as portrait and as driver, and damaged files for the rest.

    Args:
        folder: for whole files, from which damaged ones are made.
        count: of the cases.
        seed: of the damage.
        media: a folder of pictures and clips to damage as well.
    """
    chance = random.Random(seed)
    made = [Case(kind, field, name, content) for kind, name, content in crafted(folder) for field in FIELDS]
    yield from made[:count]
    whole = [path for path in make_files(folder) if path.suffix != ".json"]
    whole += sorted(path for path in EXAMPLES.iterdir() if path.suffix in MEDIA_SUFFIXES)
    if media is not None:
        whole += sorted(path for path in media.rglob("*") if path.suffix in MEDIA_SUFFIXES)
    for _ in range(count - len(made)):
        path = chance.choice(whole)
        field = "portrait" if path.suffix in (".jpg", ".png", ".tiff", ".bmp") else "driving"
        if chance.random() < 0.1:
            field = chance.choice(FIELDS)
        yield Case("damaged", field, path.name, damaged(path.read_bytes(), chance))


FIELDS = ("portrait", "driving")


def crafted(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Files made to mislead: what is wrong with each, the name it comes under, what is in it."""
    for name, content in _wrong_types().items():
        yield "wrong type", name, content
    for name, content in _lies(folder).items():
        yield "header that lies", name, content
    for name, make in BOMBS.items():
        yield "bomb", name, make(folder)


def _wrong_types() -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(1 << 20)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../face.png", b"x")
    return {
        "empty.png": b"",
        "byte.mp4": b"\0",
        "noise.jpg": noise,
        "zeros.mp4": bytes(1 << 20),
        "text.png": b"I am a picture.\n" * 100,
        "page.jpg": b"<!doctype html><script>alert(1)</script>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "paper.png": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(/etc/passwd) (r) file\n",
        "program.mp4": b"\x7fELF\x02\x01\x01" + noise[:4096],
        "archive.png": archive.getvalue(),
        "list.m3u8": b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": b"ffconcat version 1.0\nfile /etc/passwd\nduration 1\n",
        "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "subtitles.mp4": b"1\n00:00:00,000 --> 10:00:00,000\nhello\n",
        "../../etc/passwd": noise[:100],
    }


def _chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colours: int = 2) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _deflated(size: int) -> bytes:
    """So many zeros, compressed: one block again and again, which is quicker than compressing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">I", (size >> 20 << 20) % 65521 << 16 | 1)
    return b"\x78\xda" + block * (size >> 20) + b"\x03\x00" + check


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _lies(folder: Path) -> dict[str, bytes]:
    """Whole files whose header says something else."""
    small = Image.new("RGB", (64, 64))
    jpeg, gif, bmp, webp = (bytearray(_saved(small, kind)) for kind in ("JPEG", "GIF", "BMP", "WEBP"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff" * 4
    gif[6:10] = b"\xff" * 4
    bmp[18:26] = struct.pack("<ii", 1 << 30, 1 << 30)
    webp[26:30] = b"\xff\x3f\xff\x3f"
    tiff = bytearray(_saved(small, "TIFF"))
    tiff[4:8] = struct.pack("<I", 4)  # a directory that lies in the header, and leads to itself
    clip = bytearray(_clip(folder, 6))
    header = clip.index(b"mvhd") + 4
    length = bytearray(clip)
    length[header + 16 : header + 20] = struct.pack(">I", 0xFFFFFFFF)
    rate = bytearray(clip)
    rate[header + 12 : header + 16] = struct.pack(">I", 1)
    samples = bytearray(clip)
    sizes = clip.index(b"stsz") + 12
    samples[sizes : sizes + 4] = struct.pack(">I", 0x7FFFFFFF)
    frame = bytearray(clip)
    entry = clip.index(b"avc1", clip.index(b"stsd")) + 28
    frame[entry : entry + 4] = struct.pack(">HH", 0xFFFF, 0xFFFF)
    box = bytearray(clip)
    box[clip.index(b"moov") - 4 : clip.index(b"moov")] = b"\xff" * 4
    tensor = {"values": {"dtype": "F32", "shape": [1 << 40, 57], "data_offsets": [0, 8]}}
    return {
        "huge.png": _png(60_000, 60_000, _chunk(b"IDAT", zlib.compress(bytes(1000)))),
        "most.png": _png(0x7FFFFFFF, 0x7FFFFFFF),
        "none.png": _png(0, 0),
        "odd.png": _png(64, 64, _chunk(b"IDAT", b"not deflated"), depth=7, colours=5),
        "huge.jpg": bytes(jpeg),
        "huge.gif": bytes(gif),
        "huge.bmp": bytes(bmp),
        "huge.webp": bytes(webp),
        "loop.tiff": bytes(tiff),
        "long.mp4": bytes(length),
        "slow.mp4": bytes(rate),
        "samples.mp4": bytes(samples),
        "frame.mp4": bytes(frame),
        "box.mp4": bytes(box),
        "length.safetensors": struct.pack("<Q", 1 << 62) + b"{}",
        "shape.safetensors": _tensors(json.dumps(tensor).encode()),
        "deep.safetensors": _tensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    }


def _tensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(8)


def _clip(folder: Path, frames: int, side: int = 64, rate: Fraction = Fraction(25)) -> bytes:
    """A clip of one grey."""
    path = folder / f"grey-{frames}-{side}.mp4"
    grey = np.full((side, side, 3), 128, np.uint8)
    with VideoWriter(path, rate) as writer:
        for _ in range(frames):
            writer.write(grey)
    return path.read_bytes()


def _moving(kind: str, frames: int, side: int) -> bytes:
    """An animation, each frame another grey."""
    first, *rest = (Image.new("L", (side, side), number % 256) for number in range(frames))
    return _saved(first, kind, save_all=True, append_images=rest, duration=20)


def _repeated(frames: int) -> bytes:
    """A GIF of one frame, so many times."""
    still = _saved(Image.new("L", (8, 8)), "GIF")
    start = 13 + 3 * 2 ** ((still[10] & 7) + 1)
    return still[:start] + still[start:-1] * frames + b";"


BOMBS: dict[str, Callable[[Path], bytes]] = {
    "flat.png": lambda _: _png(20_000, 20_000, _chunk(b"IDAT", _deflated(1200 << 20))),
    "within.png": lambda _: _png(7_000, 7_000, _chunk(b"IDAT", _deflated(141 << 20))),
    "profile.png": lambda _: _png(64, 64, _chunk(b"iCCP", b"a\0\0" + _deflated(3 << 30)), _chunk(b"IDAT", b"")),
    "words.png": lambda _: _png(64, 64, _chunk(b"zTXt", b"a\0\0" + _deflated(3 << 30)), _chunk(b"IDAT", b"")),
    "flat.jpg": lambda _: _saved(Image.new("L", (16_000, 16_000)), "JPEG"),
    "flat.webp": lambda _: _saved(Image.new("L", (16_383, 4_000)), "WEBP", quality=1, method=0),
    "many.gif": lambda _: _repeated(40_000),
    "large.gif": lambda _: _moving("GIF", 40, 3_000),
    "many.png": lambda _: _moving("PNG", 2_000, 64),
    "hours.mp4": lambda folder: _clip(folder, 700, 32, Fraction(1, 60)),
    "large.mp4": lambda folder: _clip(folder, 5, 4_096),
}
"""Small files that grow when they are decoded, by name."""
