"""Colours of a photograph by place: its surface, and inside mouth and eyes a second, painted layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.interior import paint_interior

INTERIOR_REACH_CM = 4.0
"""How far beyond the face's landmarks the painted layer goes on: jaws drop, and eyes roll."""


class PhotoTexture:
    """One photograph, ready to be looked up.

    Args:
        image: [3 h w] in [0, 1].
        landmarks: [478 3] in its pixels.
        pixels_per_cm: scale of the head in it.
    """

    def __init__(self, image: Tensor, landmarks: Tensor, pixels_per_cm: float) -> None:
        height, width = image.shape[1:]
        reach = INTERIOR_REACH_CM * pixels_per_cm
        low = (landmarks[:, :2].amin(0) - reach).floor().long().tolist()
        high = (landmarks[:, :2].amax(0) + reach).ceil().long().tolist()
        left, top = (min(max(start, 0), side - 1) for start, side in zip(low, (width, height), strict=True))
        right, bottom = (max(min(end, side), 1) for end, side in zip(high, (width, height), strict=True))
        self._corner = landmarks.new_tensor([left, top])
        part = image[:, top : max(bottom, top + 1), left : max(right, left + 1)]
        interior = paint_interior(part, landmarks - F.pad(self._corner, (0, 1)), pixels_per_cm)
        self._layers = image[None], interior[None]
        self._smoothed: dict[int, tuple[Tensor, Tensor]] = {1: self._layers}

    def sample(self, places: Tensor, inside: Tensor, texels: int) -> Tensor:
        """Colours [t 3 h w] at places [t h w 2] (x and y in the photograph's pixels), mirrored beyond its edges.

        Args:
            places: of every pixel of t frames.
            inside: [t h w] bool, which pixels show the painted layer.
            texels: rows and columns of the photograph that a pixel covers; it shows their mean.
        """
        if texels not in self._smoothed:
            self._smoothed[texels] = tuple(F.avg_pool2d(layer, texels, stride=1) for layer in self._layers)
        surface, interior = self._smoothed[texels]
        places = places - (texels - 1) / 2
        frames, height, width = inside.shape
        colours = _look_up(surface, places.view(1, frames * height, width, 2)).view(3, -1)
        pixels = inside.flatten().nonzero().squeeze(1)
        if len(pixels):
            seen = places.view(-1, 2).index_select(0, pixels) - self._corner
            colours.index_copy_(1, pixels, _look_up(interior, seen.view(1, 1, -1, 2)).view(3, -1))
        return colours.view(3, frames, height, width).transpose(0, 1)


def _look_up(layer: Tensor, places: Tensor) -> Tensor:
    """Colours [1 3 a b] of a layer [1 3 h w] at places [1 a b 2] in its pixels."""
    grid = places * (2 / places.new_tensor([layer.shape[3], layer.shape[2]])) - 1
    return F.grid_sample(layer, grid, padding_mode="reflection", align_corners=False)
