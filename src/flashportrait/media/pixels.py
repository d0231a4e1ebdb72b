"""Pictures of any colour type to upright, opaque 8-bit sRGB."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
from PIL import Image, ImageCms

from flashportrait.media.picture import DECODER_ERRORS

BACKDROP = (128, 128, 128)
"""What shows through transparent pixels: a neutral grey, which tints neither skin nor hair at soft edges."""

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


def to_srgb(image: Image.Image, name: str, factor: int = 1) -> Image.Image:
    """The picture upright (EXIF), opaque (over mid grey), in 8-bit sRGB.

    Metadata that can't be read is passed over, with a warning.

    Args:
        image: decoded.
        name: what warnings call it.
        factor: by which to reduce it on the way.
    """
    orientation = _orientation(image, name)
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if factor > 1:
        image = (image.convert("L") if image.mode == "1" else image).reduce(factor)
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (*BACKDROP, 255))
        image = Image.alpha_composite(backdrop, image).convert("RGB")
    image = _by_profile(image, profile, name)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


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


def _by_profile(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Convert by the embedded colour profile where it fits the pixels (phones store Display P3, print shops CMYK)."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, *DECODER_ERRORS) as error:
            logger.warning("the colour profile of %s does not fit it and is not applied (%s)", name, error)
    return image.convert("RGB")
