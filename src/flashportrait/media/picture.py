"""Picture files opened whatever they carry: HEIC, huge ones, and ones whose metadata can't be read."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError, features

from flashportrait.errors import UserError
from flashportrait.media.place import check_address

MAX_PIXELS = 1 << 28
"""Pictures of more pixels are refused: phones make up to 200 million, and what has more is mostly made to do harm."""

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for content that it didn't expect."""

HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PNG_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
"""Chunks without which a picture looks otherwise, but for its colour profile."""
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Markers of application data and comments; E0 and EE say what the channels are."""
JPEG_SCAN = 0xDA

_guard = threading.Lock()


class Opened(NamedTuple):
    """A picture as it came out of its file."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height that the file states; those of `image` may be less."""
    stripped: bool = False
    """Whether metadata had to be left out to read it."""


@contextmanager
def open_picture(path: Path, side: int | None = None) -> Iterator[Opened]:
    """A picture with its pixels decoded.

    Args:
        path: a file that Pillow reads, or a HEIC with the extra `heic`.
        side: no more pixels than this are needed on the longer side: where the format allows it (JPEG), it is decoded
            at a half, a quarter or an eighth, but never to less.

    Raises:
        UserError: missing, a folder, an address, not a picture, cut off, or of too many pixels.
    """
    check_address(path)
    if not path.exists():
        raise UserError(f"there is no file '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give a picture")
    try:
        opened = _decoded(path, side)
    except UserError:
        raise
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        bare = None if isinstance(error, Image.DecompressionBombError) else _without_metadata(path)
        try:
            if bare is None:
                raise
            opened = _decoded(bare, side)._replace(stripped=True)
        except (*DECODER_ERRORS, Image.DecompressionBombError):
            raise _refusal(path, error) from error
    with opened.image:
        yield opened


def _decoded(source: Path | io.BytesIO, side: int | None) -> Opened:
    if isinstance(source, Path):
        prepare_plugins(source)
    with _guard, warnings.catch_warnings():
        # Pillow's own limit is lower than phones' pictures, and kept in one place for the whole process.
        warnings.simplefilter("ignore")
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
        try:
            image = Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    size = image.size
    if side is not None and max(size) > side:
        factor = -(-max(size) // side)
        image.draft(None, (size[0] // factor, size[1] // factor))
    image.load()
    return Opened(image, size)


def prepare_plugins(path: Path) -> None:
    """Let Pillow read the file's kind, if that takes more than Pillow.

    Raises:
        UserError: HEIC without the extra `heic`, or AVIF with a Pillow that can't read it.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp":
        return
    brands = {head[start : start + 4] for start in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
    if brands & AVIF_BRANDS:
        if not features.check("avif"):
            raise UserError(f"'{path}' is an AVIF picture, for which Pillow 11.3 is needed: pip install -U pillow")
    elif brands & HEIF_BRANDS:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise UserError(
                f"'{path}' is a HEIC picture, for which an extra is needed: pip install 'flashportrait[heic]', "
                "or save it as JPEG"
            ) from error
        register_heif_opener()


def _refusal(path: Path, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"'{path}' has more than {MAX_PIXELS // 10**6} million pixels: make it smaller")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"'{path}' is not a picture that can be read: give a JPEG, PNG, WebP or HEIC file")
    if isinstance(error, MemoryError):
        return UserError(f"'{path}' takes more memory to decode than there is: make it smaller")
    line = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"'{path}' can't be read ({line}): is it complete?")


def _without_metadata(path: Path) -> io.BytesIO | None:
    """A PNG's or JPEG's content without what doesn't make the picture; None where there is nothing to leave out."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content.startswith(PNG_SIGNATURE):
        bare = _png_pixels(content)
    elif content.startswith(JPEG_SIGNATURE):
        bare = _jpeg_pixels(content)
    else:
        return None
    return io.BytesIO(bare) if bare != content else None


def _png_pixels(content: bytes) -> bytes:
    """Of chunks, each a length (4 bytes), a name (4), the data and a checksum (4), those that make the picture."""
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in PNG_PIXEL_CHUNKS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _jpeg_pixels(content: bytes) -> bytes:
    """Of segments, each FF, a marker and a length (2 bytes) with the data, those that make the picture."""
    kept, start = [content[:2]], 2
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != JPEG_SCAN:
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if content[start + 1] not in JPEG_METADATA:
            kept.append(content[start:end])
        start = end
    return b"".join([*kept, content[start:]])
