"""Colours of a photograph by place: its surface, and inside mouth and eyes what is painted behind."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.expression import smoothstep
from flashportrait.rig.interior import Layers

SHADE_CM = 0.3
"""How far lips and lids cast their shade on what lies behind; above, they do twice as far."""
DARKEST = 0.35
"""Light that reaches what lies right behind a rim."""

Pyramid = tuple[Tensor, Tensor, Tensor, Tensor]


class PhotoTexture:
    """One photograph, ready to be looked up.

    Args:
        image: [3 h w] in [0, 1].
        layers: what is behind its mouth and eyes.
    """

    def __init__(self, image: Tensor, layers: Layers) -> None:
        self._corner = layers.corner
        self._pictures: dict[int, Pyramid] = {1: (image[None], layers.skull[None], layers.jaw[None], layers.lids[None])}

    def sample(self, places: Tensor, opened: Tensor, jaw: Tensor | None, texels: int, shade_pixels: float) -> Tensor:
        """Colours [t 3 h w] at places [t h w 2] (x and y in the photograph's pixels), mirrored beyond its edges.

        Args:
            places: of every pixel of t frames.
            opened: [t h w] 0 on the surface; inside an opening 1, and up to 2 where it is as in the photograph; on an
                upper lid -1 where it is closed, and up to 0 where it is as in the photograph.
            jaw: how far the jaw has moved, [t 2] in the photograph's pixels; None where nothing is open.
            texels: rows and columns of the photograph that a pixel covers; it shows their mean.
            shade_pixels: how far rims cast their shade, in the frames' pixels.
        """
        if texels not in self._pictures:
            self._pictures[texels] = tuple(F.avg_pool2d(layer, texels, stride=1) for layer in self._pictures[1])
        surface, skull, jaw_layer, lids = self._pictures[texels]
        places = places - (texels - 1) / 2
        frames, height, width = opened.shape
        colours = _look_up(surface, places.view(1, frames * height, width, 2)).view(3, -1)
        flat = places.view(-1, 2)

        def there(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return opened.view(-1)[pixels], colours[:, pixels], flat[pixels] - self._corner

        if jaw is not None and len(pixels := (opened > 0).flatten().nonzero().squeeze(1)):
            as_it_is, photo, seen = there(pixels)
            painted, always, at_rest, behind = _look_up(skull, seen.view(1, 1, -1, 2)).view(6, -1).split((3, 1, 1, 1))
            moved = seen - jaw.index_select(0, pixels // (height * width))
            before = _look_up(jaw_layer, moved.view(1, 1, -1, 2)).view(4, -1)
            painted = painted + (before[:3] - painted) * (behind * before[3])
            painted = painted * _shade(opened > 0, shade_pixels).view(-1)[pixels]
            colours[:, pixels] = painted + (photo - painted) * (always + at_rest * (as_it_is - 1))
        if jaw is not None and len(pixels := (opened < 0).flatten().nonzero().squeeze(1)):
            closed, photo, seen = there(pixels)
            skin, share = _look_up(lids, seen.view(1, 1, -1, 2)).view(4, -1).split((3, 1))
            colours[:, pixels] = photo - (skin - photo) * (share * closed)
        return colours.view(3, frames, height, width).transpose(0, 1)


def _shade(inside: Tensor, reach: float) -> Tensor:
    """Light inside openings [t h w], from ``DARKEST`` behind their rims to 1; ``inside``: bool."""
    rows, columns = (inside.any(0).any(axis).nonzero().squeeze(1) for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    reach = max(1, round(reach))
    part = F.pad(inside[:, None, box[0], box[1]].float(), (reach, reach, 2 * reach, reach))
    open_share = F.avg_pool2d(F.avg_pool2d(part, (3 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)
    light = inside.new_zeros(inside.shape, dtype=open_share.dtype)
    light[:, box[0], box[1]] = DARKEST + (1 - DARKEST) * smoothstep((open_share[:, 0] - 0.25) / 0.5)
    return light


def _look_up(layer: Tensor, places: Tensor) -> Tensor:
    """Colours [1 c a b] of a layer [1 c h w] at places [1 a b 2] in its pixels."""
    grid = places * (2 / places.new_tensor([layer.shape[3], layer.shape[2]])) - 1
    return F.grid_sample(layer, grid, padding_mode="reflection", align_corners=False)
