"""Where on the face each pixel of a picture lies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Patch:
    """The face as seen through a window of pixels, in face coordinates.  [n h w] each"""

    u: Tensor
    v: Tensor
    slope_u: Tensor
    """How far the view ray drifts along u for each unit that it goes in."""
    slope_v: Tensor
    pixel: Tensor
    """Width of a pixel.  [n 1 1]"""
