"""Portraits: any still picture to upright, opaque 8-bit sRGB."""

from __future__ import annotations

import logging
from pathlib import Path

from PIL import Image

from flashportrait.errors import UserError
from flashportrait.media.picture import open_picture
from flashportrait.media.pixels import to_srgb

MIN_SIDE, MAX_SIDE = 64, 8192
"""Pixels: smaller ones are refused, larger ones reduced."""

REDUCTION = "flashportrait.reduction"
"""Key, in an image's info, of the factor by which it is smaller than the file that it was read from."""

logger = logging.getLogger(__name__)


def load_portrait(source: str | Path | Image.Image) -> Image.Image:
    """Return the picture upright (EXIF), opaque (over mid grey), in 8-bit sRGB, at most 8192 pixels a side.

    A larger one is reduced by a whole factor, with a warning; `reduction` tells it. Metadata that can't be read is
    passed over, with a warning.

    Args:
        source: a file that Pillow reads (JPEG, PNG, WebP and others, HEIC with the extra `heic`; the first frame of an
            animation), or an image.

    Raises:
        UserError: missing, not a picture, cut off, a side below 64 pixels, or more than 268 million pixels.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, "the portrait")
        return _fitted(source, source.size, "the portrait")
    path = Path(source)
    with open_picture(path, MAX_SIDE) as (image, size, stripped):
        _check_size(size, f"'{path}'")
        if stripped:
            logger.warning("the metadata of '%s' can't be read and is ignored", path)
        portrait = _fitted(image, size, f"'{path}'")
    if max(size) > MAX_SIDE:
        logger.warning("'%s' is %dx%d pixels: reduced to %dx%d", path, *size, *portrait.size)
    return portrait


def reduction(image: Image.Image) -> float:
    """By how much `load_portrait` made a picture smaller: the file's pixels over the image's, on a side."""
    return image.info.get(REDUCTION, 1.0)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    factor = -(-max(size) // MAX_SIDE)
    if min(size) < MIN_SIDE:
        raise UserError(f"{name} is {width}x{height} pixels: both sides must be at least {MIN_SIDE}, so resize it")
    if min(size) // factor < MIN_SIDE:
        raise UserError(
            f"{name} is {width}x{height} pixels: of at most {MAX_SIDE} a side, {MIN_SIDE} must be left on the shorter "
            "one, so crop it"
        )


def _fitted(image: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    """The picture in the form that `load_portrait` promises; `size` is the file's."""
    portrait = to_srgb(image, name, -(-max(image.size) // MAX_SIDE))
    # Nothing else of what it carried: it is done with.
    portrait.info = {REDUCTION: reduction(image) * max(size) / max(portrait.size)}
    return portrait
