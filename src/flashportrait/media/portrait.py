"""Portraits: any still picture to upright, opaque 8-bit sRGB."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from flashportrait.errors import UserError

MIN_SIDE, MAX_SIDE = 64, 8192

BACKDROP = (128, 128, 128)
"""What shows through transparent pixels: a neutral grey, which tints neither skin nor hair at soft edges."""

logger = logging.getLogger(__name__)


def load_portrait(source: str | Path | Image.Image) -> Image.Image:
    """Return the picture upright (EXIF), opaque (over mid grey), in 8-bit sRGB.

    Args:
        source: a file that Pillow reads (JPEG, PNG, WebP and others; the first frame of an animation), or an image.

    Raises:
        UserError: missing, not a picture, cut off, or with a side outside 64 to 8192 pixels.
    """
    if isinstance(source, Image.Image):
        _check_size(source, "the portrait")
        return _normalise(source)
    path = Path(source)
    if not path.exists():
        raise UserError(f"there is no file '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give a picture")
    with warnings.catch_warnings():
        # Pillow's own guard warns below our limit; sides are checked before any pixel is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                _check_size(image, f"'{path}'")
                image.load()
                return _normalise(image)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f"'{path}' is larger than {MAX_SIDE}x{MAX_SIDE} pixels: make it smaller") from error
        except UnidentifiedImageError as error:
            raise UserError(f"'{path}' is not a picture that can be read: give a JPEG, PNG or WebP file") from error
        except (OSError, SyntaxError, EOFError, ValueError) as error:
            raise UserError(
                f"'{path}' can't be read ({str(error) or type(error).__name__}): is it complete?"
            ) from error


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise UserError(
            f"{name} is {width}x{height} pixels: both sides must lie between {MIN_SIDE} and {MAX_SIDE}, so resize it"
        )


def _normalise(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if upright.mode.startswith(("I", "F")):
        upright = _to_eight_bits(upright)
    if upright.mode == "P" or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        upright = upright.convert("RGBA")
        backdrop = Image.new("RGBA", upright.size, (*BACKDROP, 255))
        upright = Image.alpha_composite(backdrop, upright).convert("RGB")
    return _to_srgb(upright, profile)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits or floats: the type's white, 65535 or 1.0, becomes 255."""
    values = np.asarray(image, np.float32)
    white = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8), "L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the embedded colour profile where it fits the pixels (phones store Display P3, print shops CMYK)."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            logger.warning("the portrait's colour profile does not fit it and is not applied (%s)", error)
    return image.convert("RGB")
