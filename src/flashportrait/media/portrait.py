"""Portraits: any still picture to upright, opaque 8-bit sRGB."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from flashportrait.errors import UserError
from flashportrait.media.picture import DECODER_ERRORS, open_picture

MIN_SIDE, MAX_SIDE = 64, 8192
"""Pixels: smaller ones are refused, larger ones reduced."""

BACKDROP = (128, 128, 128)
"""What shows through transparent pixels: a neutral grey, which tints neither skin nor hair at soft edges."""

REDUCTION = "flashportrait.reduction"
"""Key, in an image's info, of the factor by which it is smaller than the file that it was read from."""

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows a picture upright, by EXIF's orientation."""

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
        return _normalised(source, source.size, "the portrait")
    path = Path(source)
    with open_picture(path, MAX_SIDE) as (image, size, stripped):
        _check_size(size, f"'{path}'")
        if stripped:
            logger.warning("the metadata of '%s' can't be read and is ignored", path)
        portrait = _normalised(image, size, f"'{path}'")
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


def _normalised(image: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    """The picture in the form that `load_portrait` promises; `size` is the file's."""
    orientation, reduced_before = _orientation(image, name), reduction(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    factor = -(-max(image.size) // MAX_SIDE)
    if factor > 1:
        image = (image.convert("L") if image.mode == "1" else image).reduce(factor)
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (*BACKDROP, 255))
        image = Image.alpha_composite(backdrop, image).convert("RGB")
    image = _to_srgb(image, profile, name)
    reduced = reduced_before * max(size) / max(image.size)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    image.info = {REDUCTION: reduced}
    return image


def _orientation(image: Image.Image, name: str) -> int:
    """EXIF's, from 1 to 8; 1, upright, where it can't be read."""
    orientation, readable = 1, True
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            # Read once more, since Pillow keeps silent on what it failed to read while it opened the file.
            Image.Exif().load(image.info.get("exif", b""))
        except DECODER_ERRORS:
            readable = False
    if complaints or not readable:
        logger.warning("the EXIF data of %s can't be read and is ignored", name)
    return orientation if isinstance(orientation, int) else 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits or floats: the type's white, 65535 or 1.0, becomes 255."""
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=np.inf, neginf=0)
    white = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8), "L")


def _to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Convert by the embedded colour profile where it fits the pixels (phones store Display P3, print shops CMYK)."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, *DECODER_ERRORS) as error:
            logger.warning("the colour profile of %s does not fit it and is not applied (%s)", name, error)
    return image.convert("RGB")
