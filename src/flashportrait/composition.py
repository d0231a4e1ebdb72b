"""Frames of the result from what is drawn on the mesh, at any size, and what a network makes of a part of it.

A network that blends a reference says of each pixel of its square how much of it is painted anew, and from where the
rest is taken. Both are smooth, so they are enlarged, and what is drawn keeps its own sharpness. Where the mesh draws
expression, the network knows better than it where things lie and how light falls, and worse how they look close by: its
details are then left out (docs/experiments/2026-11-30-flow-and-light.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.models.tiny_vae import Restored, bend
from flashportrait.rig.expression import smoothstep

FADE = 0.08
"""Width of the band along the square's edges, in units of its side, over which the network's part fades out."""
SOFTNESS = 3.0
"""Standard deviation, in the network's pixels, of the blur that takes the details out of what it paints."""

UNLIKE = 0.05, 0.15
"""How much of white the network changes the light by, mean over the colours, where it shows what is drawn for sure, and
where it shows something else for sure."""

Square = tuple[int, int, int, int]
"""Left, top, right, bottom of what the network saw, in the pixels of what is drawn; it may reach beyond."""


def compose(drawn: Tensor, square: Square, restored: Restored, refine: float = 1.0) -> Tensor:
    """What is drawn, with the network's changes to the square that it saw.

    Args:
        drawn: [t 3 h w] in [0, 1].
        square: what the network saw.
        restored: of t frames, [1 t c s s].
        refine: share of the changes to take over, in [0, 1].

    Returns:
        [t 3 h w] in [0, 1].
    """
    part = _Part(drawn, square, restored.frames.shape[-1], refine)
    bent = part.bent(restored.flow[0])
    painted, share = part.enlarged(restored.painted[0]), part.enlarged(1 - restored.mask[0])
    return part.with_change(bent, share * (painted - bent))


def compose_keeping_details(
    drawn: Tensor, seen: Tensor, square: Square, restored: Restored, refine: float = 1.0
) -> Tensor:
    """The same without the network's details: what is drawn is moved to where it belongs, and takes over the light and
    colour there. Where these are far from what is drawn, the mesh shows something else, and ``compose`` holds.

    A flow counts as far as the network uses it: where all is painted, it means nothing.

    Args:
        seen: what the network saw of ``drawn``, [t 3 s s] in [0, 1].
        drawn, square, restored, refine: as of ``compose``.

    Returns:
        [t 3 h w] in [0, 1].
    """
    side = seen.shape[-1]
    part = _Part(drawn, square, side, refine)
    flow = F.interpolate(restored.flow[0], (side, side), mode="bilinear") * blurred(restored.mask[0], SOFTNESS)
    light = blurred(restored.frames[0] - bend(seen.to(flow), flow), SOFTNESS)
    kept = part.with_change(part.bent(flow), part.enlarged(light))
    agreed, unlike = UNLIKE
    elsewhere = blurred(smoothstep((light.abs().mean(1, keepdim=True) - agreed) / (unlike - agreed)), SOFTNESS)
    return part.blend(kept, compose(drawn, square, restored, refine), part.enlarged(elsewhere))


class _Part:
    """The square that a network saw, in what is drawn."""

    def __init__(self, drawn: Tensor, square: Square, seen: int, refine: float) -> None:
        left, top, right, bottom = square
        height, width = drawn.shape[-2:]
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        self._drawn, self._place = drawn, (..., slice(y0, y1), slice(x0, x1))
        self._inside = (..., slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        self._side, self._scale = right - left, (right - left) / seen
        self._fade = refine * _fade(self._side, drawn)[self._inside]

    def enlarged(self, picture: Tensor) -> Tensor:
        """A picture [t c s s] of the square, in the pixels drawn."""
        whole = F.interpolate(picture, (self._side, self._side), mode="bilinear", align_corners=False)
        return whole[self._inside]

    def bent(self, flow: Tensor) -> Tensor:
        """What is drawn, bent by a flow [t 2 . .] in the network's pixels."""
        return bend(self._drawn[self._place], self.enlarged(flow) * self._scale * self._fade)

    def blend(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """Two pictures of all that is drawn, the second by its share [t 1 . .] of the part."""
        result = first.clone()
        result[self._place] = first[self._place].lerp(second[self._place], share)
        return result

    def with_change(self, bent: Tensor, change: Tensor) -> Tensor:
        """All that is drawn, with a change on the bent part."""
        result = self._drawn.clone()
        result[self._place] = (bent + self._fade * change).clamp(0, 1)
        return result


def blurred(pictures: Tensor, deviation: float) -> Tensor:
    """Pictures [t c h w] under a Gaussian of so many pixels' standard deviation; beyond their edges they go on."""
    reach = round(3 * deviation)
    weights = torch.arange(-reach, reach + 1, device=pictures.device).square().div(-2 * deviation**2).exp()
    weights = (weights / weights.sum()).to(pictures)
    for _ in range(2):  # along rows, then along columns, which have become rows
        padded = F.pad(pictures, (reach, reach, 0, 0), mode="replicate")
        pictures = F.conv2d(padded.flatten(0, 1)[:, None], weights.view(1, 1, 1, -1)).view_as(pictures).mT
    return pictures


def all_painted(frames: Tensor) -> Restored:
    """Frames [1 t 3 s s] of a network that blends nothing, as ``compose`` takes them."""
    nothing = torch.zeros_like(frames[:, :, :2])
    return Restored(frames, frames, nothing, frames, nothing[:, :, :1])


def _fade(side: int, like: Tensor) -> Tensor:
    """1 inside a square, falling to 0 at its edges.  [side side]"""
    place = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side
    rise = (torch.minimum(place, 1 - place) / FADE).clamp(max=1)
    return torch.minimum(rise, rise[:, None])
