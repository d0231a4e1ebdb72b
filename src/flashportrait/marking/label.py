"""A visible label on every frame: white words on a dark plate, legible on any picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flashportrait.errors import UserError

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
DEFAULT_CORNER = "bottom-right"
DEFAULT_SIZE = 5.0

LEAST_FONT_PIXELS = 9
"""Smaller letters of the font can't be read."""
MOST_WIDTH = 0.9
"""Of the picture's, which a label may take."""
PLATE_OPACITY = 0.7
"""White words keep a contrast of over 7:1 on a white picture under it (WCAG 2's formula)."""
OVERSAMPLING = 4
"""For smooth edges, the label is drawn this many times larger."""
MISSING = "\U0010ffff"
"""A code point that no font draws."""


@dataclass(frozen=True)
class Label:
    """What is written on frames, and where.

    Raises:
        UserError: empty text, or letters that the font lacks.
    """

    text: str
    corner: str = DEFAULT_CORNER
    """One of `CORNERS`."""
    size: float = DEFAULT_SIZE
    """Height of the letters, in percent of the picture's shorter side."""

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text.splitlines()) > 1:
            raise UserError(f"the label is {self.text!r}: give one line of text")
        if self.corner not in CORNERS:
            raise UserError(f"the label's corner is {self.corner!r}: choose {', '.join(CORNERS[:-1])} or {CORNERS[-1]}")
        if lacking := sorted({letter for letter in self.text if not letter.isspace() and not _has(letter)}):
            raise UserError(f"the label's font lacks {' '.join(lacking)}: give text in Latin letters without accents")

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of a uint8 RGB frame [h w 3] with the label on it."""
        height, width = frame.shape[:2]
        plate, opacity = _plate(self.text, self.size, width, height)
        tall, wide = opacity.shape[:2]
        margin = min(round(min(height, width) * 0.02), height - tall, width - wide)
        top = margin if self.corner.startswith("top") else height - tall - margin
        left = margin if self.corner.endswith("left") else width - wide - margin
        labelled = frame.copy()
        under = labelled[top : top + tall, left : left + wide]
        under[:] = np.round(under * (1 - opacity) + plate * opacity)
        return labelled


@lru_cache(maxsize=8)
def _plate(text: str, size: float, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours [h w 1], 0 to 255, and opacities [h w 1], 0 to 1, of a label for pictures of this size in pixels."""
    pixels = max(min(width, height) * size / 100, LEAST_FONT_PIXELS)
    unit = _font(100)
    # Letters and the plate's rim around them, in units of the letters' height.
    extent = unit.getlength(text) / 100 + 1
    pixels = min(pixels, MOST_WIDTH * width / extent, height / 2)
    font = _font(max(1, pixels * OVERSAMPLING))
    wide, tall = round(pixels * extent), round(pixels * 1.7)
    large = (max(1, wide) * OVERSAMPLING, max(1, tall) * OVERSAMPLING)
    words, ground = Image.new("L", large), Image.new("L", large)
    ImageDraw.Draw(ground).rounded_rectangle((0, 0, large[0] - 1, large[1] - 1), large[1] // 5, fill=255)
    ImageDraw.Draw(words).text((large[0] / 2, large[1] / 2), text, fill=255, font=font, anchor="mm")
    white, dark = (np.asarray(layer.reduce(OVERSAMPLING), np.float32)[..., None] / 255 for layer in (words, ground))
    opacity = white + (1 - white) * dark * PLATE_OPACITY
    return 255 * white / np.maximum(opacity, 1e-6), opacity


@lru_cache(maxsize=4)
def _font(pixels: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)


def _has(letter: str) -> bool:
    """Whether the font has a letter, which it would draw as an empty box otherwise."""
    font = _font(100)
    drawn, box = font.getmask(letter), font.getmask(MISSING)
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))
