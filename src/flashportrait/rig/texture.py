"""Colours of a photograph by place: its surface, and inside mouth and eyes what is painted behind."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.blur import box_mean
from flashportrait.rig.expression import smoothstep
from flashportrait.rig.interior import Layers
from flashportrait.rig.streaks import Streaks

SHADE_CM = 0.3
"""How far lips and lids cast their shade on what lies behind; above, they do twice as far."""
DARKEST = 0.35
"""Light that reaches what lies right behind a rim."""
EYE_SHADE = 0.45
"""Share of that shade in eyes: an eyeball lies right behind its lids."""
LASHES_OPEN = (0.0, 0.3)
"""How near the rim of an open lid, as the lids' layer has it, lashes begin and are all that is seen."""
LASHES_CLOSED = (0.2, 0.4)
"""The same of a closed lid, whose skin is unfolded: nearer, so that they are as wide as they were."""

Pyramid = tuple[Tensor, Tensor, Tensor, Tensor]


class PhotoTexture:
    """One photograph, ready to be looked up.

    Args:
        image: [3 h w] in [0, 1].
        layers: what is behind its mouth and eyes.
        streaked: left, top, right and bottom of its part in which stretched details are blurred.
        reach: how far they are, to each side, in its pixels.
    """

    def __init__(self, image: Tensor, layers: Layers, streaked: tuple[int, int, int, int], reach: float) -> None:
        self._corners, self._streaked, self._reach = layers.corners, streaked, reach
        self._pictures: dict[int, Pyramid] = {1: (image[None], layers.skull[None], layers.jaw[None], layers.lids[None])}

    def sample(
        self,
        places: Tensor,
        opened: Tensor,
        jaw: Tensor | None,
        texels: int,
        shade_pixels: float,
        streaks: Streaks | None = None,
    ) -> Tensor:
        """Colours [t 3 h w] at places [t h w 2] (x and y in the photograph's pixels), mirrored beyond its edges.

        Args:
            places: of every pixel of t frames.
            opened: [t h w] 0 on the surface; inside a mouth 1, and up to 2 where it is as in the photograph; inside an
                eye 3 and up to 4; on an upper lid -1 where it is closed, and up to 0 where it is as in the photograph.
            jaw: how far the jaw has moved, [t 2] in the photograph's pixels; None where nothing is open.
            texels: rows and columns of the photograph that a pixel covers; it shows their mean.
            shade_pixels: how far rims cast their shade, in the frames' pixels.
            streaks: pixels of the surface whose details are streaks.
        """
        if texels not in self._pictures:
            self._pictures[texels] = tuple(_window_means(layer, texels) for layer in self._pictures[1])
        surface = self._pictures[texels][0]
        shifted = places - (texels - 1) / 2  # to where the means lie
        frames, height, width = opened.shape
        colours = _look_up(surface, shifted.view(1, frames * height, width, 2)).view(3, -1)
        if streaks is not None and len(streaks.pixels):
            self._smooth(colours, places, streaks)
        if jaw is not None:
            self._open(colours, shifted, opened, jaw, texels, shade_pixels)
        return colours.view(3, frames, height, width).transpose(0, 1)

    def _smooth(self, colours: Tensor, places: Tensor, streaks: Streaks) -> None:
        """Rewrites colours [3 t h w, flat] seen at places [t h w 2] where details are streaks: blurred across them."""
        pixels, stretched = streaks
        seen = places.view(-1, 2).index_select(0, pixels)
        corner, end = places.new_tensor(self._streaked).split(2)
        stretched = stretched * ((seen > corner) & (seen < end)).all(1, keepdim=True)
        smooth = colours.index_select(1, pixels)
        for blurred, share in zip(self._blurred, stretched.unbind(1), strict=True):
            smooth = torch.lerp(smooth, _at(blurred, (seen - corner) / 2), share)
        colours.index_copy_(1, pixels, smooth)

    @cached_property
    def _blurred(self) -> tuple[Tensor, Tensor]:
        """What may be streaked, blurred along its y and along its x, at half its size."""
        left, top, right, bottom = self._streaked
        half = F.avg_pool2d(self._pictures[1][0][0, :, top:bottom, left:right], 2, ceil_mode=True)
        down, along = (box_mean(box_mean(half, self._reach / 2, axis), self._reach / 2, axis) for axis in (1, 2))
        return down[None], along[None]

    def _open(
        self, colours: Tensor, places: Tensor, opened: Tensor, jaw: Tensor, texels: int, shade_pixels: float
    ) -> None:
        """Rewrites the surface's colours [3 t h w, flat] where mouth and eyes are open or lids closed.

        Such pixels are few: everything is done on lists of them.
        """
        frames, height, width = opened.shape
        changed = opened.view(-1).nonzero().squeeze(1)
        state = opened.view(-1).index_select(0, changed)
        for behind, chosen in ((True, state > 0), (False, state < 0)):
            pixels, share = changed[chosen], state[chosen]
            if len(pixels) == 0:
                continue
            photo = colours.index_select(1, pixels)
            seen = places.view(-1, 2).index_select(0, pixels)
            if behind:
                moved = seen - jaw.index_select(0, pixels // (height * width))
                eye = share > 2
                painted, kept = self._behind(texels, seen, moved, share - torch.where(eye, 3, 1))
                light = _shade(pixels, (frames, height, width), shade_pixels)
                painted = painted * torch.where(eye, 1 - EYE_SHADE * (1 - light), light)
            else:
                painted, shown, lashes = _at(self._pictures[texels][3], seen - self._corners[2]).split((3, 1, 1))
                begin, all_of_it = (
                    open_lid - (closed - open_lid) * share
                    for open_lid, closed in zip(LASHES_OPEN, LASHES_CLOSED, strict=True)
                )
                bare = 1 - smoothstep((lashes - begin) / (all_of_it - begin))
                kept = 1 + shown * bare * share
            colours.index_copy_(1, pixels, painted + (photo - painted) * kept)

    def _behind(self, texels: int, seen: Tensor, moved: Tensor, as_it_is: Tensor) -> tuple[Tensor, Tensor]:
        """What is painted [3 n] behind openings at places ``seen`` [n 2], ``moved`` where the jaw's layer is looked up,
        and the photograph's share [n]."""
        _, skull, jaw, _ = self._pictures[texels]
        painted, always, at_rest, behind = _at(skull, seen - self._corners[0]).split((3, 1, 1, 1))
        before, covered = _at(jaw, moved - self._corners[1]).split((3, 1))
        return painted + (before - painted) * (behind * covered), always + at_rest * as_it_is


def _shade(pixels: Tensor, shape: tuple[int, int, int], reach: float) -> Tensor:
    """Light at pixels [n] inside openings, from ``DARKEST`` behind their rims to 1.

    pixels: numbers of all that are inside, in frames of ``shape``; reach: of the rims' shade, in pixels.
    """
    frames, height, width = shape
    frame, row, column = pixels // (height * width), pixels // width % height, pixels % width
    row, column, reach = row - row.amin(), column - column.amin(), max(1, round(reach))
    inside = torch.zeros(frames, 1, int(row.amax()) + 1, int(column.amax()) + 1, device=pixels.device)
    inside[frame, 0, row, column] = 1
    # Shade is soft, so a wide one is made of blocks of pixels.
    block = max(1, reach // 4)
    inside, reach = F.avg_pool2d(inside, block, ceil_mode=True, count_include_pad=False), reach // block
    inside = F.pad(inside, (reach, reach, 2 * reach, reach))
    open_share = F.avg_pool2d(F.avg_pool2d(inside, (3 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)
    if block > 1:
        open_share = F.interpolate(open_share, scale_factor=block, mode="bilinear", align_corners=False)
    return DARKEST + (1 - DARKEST) * smoothstep((open_share[frame, 0, row, column] - 0.25) / 0.5)


def _at(layer: Tensor, places: Tensor) -> Tensor:
    """Values [c n] of a layer [1 c h w] at places [n 2] in its pixels."""
    return _look_up(layer, places.view(1, 1, -1, 2)).view(layer.shape[1], -1)


def _window_means(layer: Tensor, side: int) -> Tensor:
    """Means [1 c h - side + 1 w - side + 1] of all squares of a layer [1 c h w]: pooling takes twice as long."""
    for axis in (2, 3):
        count = layer.shape[axis] - side + 1
        total = layer.narrow(axis, 0, count).clone()
        for start in range(1, side):
            total += layer.narrow(axis, start, count)
        layer = total.div_(side)
    return layer


def _look_up(layer: Tensor, places: Tensor) -> Tensor:
    """Colours [1 c a b] of a layer [1 c h w] at places [1 a b 2] in its pixels."""
    grid = places * (2 / places.new_tensor([layer.shape[3], layer.shape[2]])) - 1
    return F.grid_sample(layer, grid, padding_mode="reflection", align_corners=False)
