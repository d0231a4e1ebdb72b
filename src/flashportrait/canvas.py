"""Where a portrait is drawn: the picture of the result, the part of it that moves, and what of that a network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flashportrait.face.crop import PortraitCrop, crop_square
from flashportrait.rig.photo import RIG_PIXELS, PhotoRig

View = Literal["whole", "face"]
"""``whole``: the picture as it was given, in which the head and what is near moves; ``face``: a square around it."""
VIEWS: tuple[View, ...] = ("whole", "face")

WHOLE_PIXELS = 1280
"""Longer side of whole pictures unless asked for otherwise; smaller ones keep their size."""
FACE_PIXELS = 512
"""Side of the square around a face unless asked for otherwise; less where the portrait has less."""
LEAST_PIXELS = 256
"""Least side of that square."""
REACH = (0.45, 0.35, 0.45, 0.6)
"""How far the moving part reaches beyond the square around the face: left, up, right and down, in units of its side."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Canvas:
    """A portrait made ready to be drawn on."""

    texture: Tensor
    """The moving part of the portrait, [3 H W] in [0, 1], in ``RIG_PIXELS`` times the pixels drawn."""
    landmarks: Tensor
    """The face's landmarks in its pixels, [478 3]."""
    size: tuple[int, int]
    """Height and width at which the moving part is drawn."""
    seen: Box
    """The square that a network sees, in the pixels drawn; it may reach beyond them."""
    still: np.ndarray | None = None
    """The whole picture in the result's pixels, uint8 RGB [H W 3]; None where the moving part is all of it."""
    corner: tuple[int, int] = (0, 0)
    """Left and top of the moving part in the whole picture."""

    @classmethod
    def of_face(cls, picture: Image.Image, crop: PortraitCrop, landmarks: Tensor, size: int | None) -> Canvas:
        """The square around the face, ``size`` pixels a side; no larger than the picture, and inside it.

        ``landmarks``: [478 3] in the picture's pixels.
        """
        x0, y0, x1, _ = crop.box
        own = min(x1 - x0, *picture.size)
        # Smaller about its middle, and from there moved inside.
        left, top = (
            min(max(start + (x1 - x0 - own) / 2, 0.0), length - own)
            for start, length in zip((x0, y0), picture.size, strict=True)
        )
        side = _even(min(max(own, LEAST_PIXELS), FACE_PIXELS)) if size is None else size
        texture = crop_square(np.asarray(picture), (left, top, left + own, top + own), RIG_PIXELS * side)
        placed = _moved(landmarks, (left, top), RIG_PIXELS * side / own)
        ratio = side / own
        seen, corner_x, corner_y = (round(length * ratio) for length in (x1 - x0, x0 - left, y0 - top))
        square = (corner_x, corner_y, corner_x + seen, corner_y + seen)
        return cls(_to_tensor(texture), placed, (side, side), square)

    @classmethod
    def of_whole(cls, picture: Image.Image, crop: PortraitCrop, landmarks: Tensor, size: int | None) -> Canvas:
        """The whole picture, ``size`` pixels on its longer side."""
        ratio = (min(max(picture.size), WHOLE_PIXELS) if size is None else size) / max(picture.size)
        width, height = (max(2, _even(side * ratio)) for side in picture.size)
        across, along = width / picture.width, height / picture.height
        x0, y0, x1, y1 = crop.box
        side = x1 - x0
        reached = (x0 - REACH[0] * side, y0 - REACH[1] * side, x1 + REACH[2] * side, y1 + REACH[3] * side)
        left, top = (max(0, int(edge)) for edge in (reached[0] * across, reached[1] * along))
        right, bottom = min(width, int(reached[2] * across) + 1), min(height, int(reached[3] * along) + 1)
        box = (left / across, top / along, right / across, bottom / along)
        drawn = (bottom - top, right - left)
        texture = picture.resize(
            (RIG_PIXELS * drawn[1], RIG_PIXELS * drawn[0]), Image.Resampling.LANCZOS, box=_inside(box, picture.size)
        )
        placed = _moved(landmarks, box[:2], RIG_PIXELS * across)
        seen = round(side * across)
        corner = round(x0 * across) - left, round(y0 * along) - top
        still = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        square = (corner[0], corner[1], corner[0] + seen, corner[1] + seen)
        return cls(_to_tensor(texture), placed, drawn, square, still, (left, top))

    @property
    def still_border(self) -> bool:
        """Whether nothing moves at the border: there is a picture around it, or none for want of one large enough."""
        return self.still is not None or self.seen[2] - self.seen[0] > self.size[1]

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the result's frames."""
        return self.size if self.still is None else self.still.shape[:2]

    def describe(self) -> dict[str, Any]:
        """What of it decides the result, fit for JSON, but for the pixels."""
        return {"size": self.size, "seen": self.seen, "corner": self.corner, "whole": self.still is not None}

    def rig(self, row: Tensor) -> PhotoRig:
        """The portrait on its mesh; ``row`` [57] is its own motion row."""
        return PhotoRig(self.texture, self.landmarks, row, still_border=self.still_border)

    def seen_part(self, drawn: Tensor, side: int, surroundings: Tensor) -> Tensor:
        """What a network sees of the moving part.

        Args:
            drawn: [t 3 h w] in [0, 1], of ``size``.
            side: pixels of the network's square.
            surroundings: [1 3 side side], the square as it is in the portrait: what shows beyond the picture.
        """
        left, top, right, _ = self.seen
        inside = self.seen_inside
        part = drawn[..., inside[1] : inside[3], inside[0] : inside[2]]
        if inside == self.seen:
            return _scaled(part, side, side)
        ratio = side / (right - left)
        x0, y0, x1, y1 = (
            round((edge - start) * ratio) for edge, start in zip(inside, (left, top, left, top), strict=True)
        )
        square = surroundings.to(drawn).repeat(len(drawn), 1, 1, 1)
        square[..., y0:y1, x0:x1] = _scaled(part, y1 - y0, x1 - x0)
        return square

    @property
    def seen_inside(self) -> Box:
        """What of ``seen`` is in the moving part."""
        height, width = self.size
        left, top, right, bottom = self.seen
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)

    @property
    def face_area(self) -> Box:
        """What the network sees, in the result's pixels."""
        left, top = self.corner
        x0, y0, x1, y1 = self.seen_inside
        return left + x0, top + y0, left + x1, top + y1

    def place(self, drawn: np.ndarray) -> np.ndarray:
        """Frames of the result, uint8 RGB [t H W 3], from the moving part, uint8 [t h w 3]."""
        if self.still is None:
            return drawn
        frames = np.repeat(self.still[None], len(drawn), axis=0)
        left, top = self.corner
        height, width = self.size
        frames[:, top : top + height, left : left + width] = drawn
        return frames


def _scaled(pictures: Tensor, height: int, width: int) -> Tensor:
    if pictures.shape[-2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _moved(landmarks: Tensor, corner: tuple[float, float], scale: float) -> Tensor:
    return (landmarks - torch.tensor([*corner, 0.0])) * scale


def _inside(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)


def _to_tensor(image: Image.Image) -> Tensor:
    """[3 h w] in [0, 1]"""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
