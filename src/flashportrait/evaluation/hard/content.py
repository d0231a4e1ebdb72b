"""What a file shows, told by numbers: hashes of decoded pictures, which no encoder's settings or metadata change."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from flashportrait.errors import UserError

LOOKED_AT = (0.25, 0.5, 0.75)
"""Where in a clip pictures are taken whose look is kept."""
CELLS = 4
"""Rows and columns of a look."""
ROUNDING = 2
"""Difference of a look, of 255, that other rounding explains."""


@dataclass(frozen=True)
class Content:
    """Of one video."""

    digest: str
    """SHA-256 of its decoded frames, as they are stored (for H.264: 8-bit Y, Cb and Cr)."""
    look: str
    """Mean brightness of ``CELLS`` x ``CELLS`` cells of three pictures, a byte each, in hexadecimal digits."""


def video_content(path: Path, frames: int) -> Content:
    """Decode a video and tell what it shows.

    Args:
        path: of the video.
        frames: that it should have.

    Raises:
        UserError: it can't be decoded, or has another number of frames.
    """
    digest, looks, count = hashlib.sha256(), bytearray(), 0
    chosen = {round(share * (frames - 1)) for share in LOOKED_AT}
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())
                if count in chosen:
                    looks += _look(frame.to_ndarray(format="gray"))
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"'{path}' can't be decoded ({error}): build it again") from error
    if count != frames:
        raise UserError(f"'{path}' has {count} frames, {frames} are needed: build it again")
    return Content(digest.hexdigest(), looks.hex())


def picture_digest(path: Path) -> str:
    """SHA-256 of a picture's size and its decoded 8-bit RGB pixels."""
    with Image.open(path) as picture:
        pixels = picture.convert("RGB")
        return hashlib.sha256(f"{pixels.width} {pixels.height} ".encode() + pixels.tobytes()).hexdigest()


def compare(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """What differs between two rows of tables of hashes, in words; nothing if they are of the same performance.

    Only columns that both have count. Pictures that differ no more than by rounding are no difference.
    """
    faults = []
    if found["rows"] != expected["rows"]:
        faults.append("another performance")
    for name in ("driving", "truth"):
        digest, look = name, f"{name}_look"
        if expected.get(digest) and found[digest] != expected[digest]:
            apart = difference(found[look], expected[look])
            if apart > ROUNDING:
                faults.append(f"{name} looks otherwise (by up to {apart} of 255)")
    return faults


def difference(look: str, other: str) -> int:
    """The largest difference between two looks; 255 if they are not of as many pictures."""
    if len(look) != len(other):
        return 255
    a, b = (np.frombuffer(bytes.fromhex(each), np.uint8).astype(int) for each in (look, other))
    return int(np.abs(a - b).max(initial=0))


def _look(luma: np.ndarray) -> bytes:
    """Mean brightness of the cells of a picture [h w]."""
    height, width = luma.shape
    rows, columns = (np.linspace(0, side, CELLS + 1).round().astype(int) for side in (height, width))
    means = [
        luma[top:bottom, left:right].mean()
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    return np.array(means).round().astype(np.uint8).tobytes()
