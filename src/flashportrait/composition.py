"""Frames of the result from what is drawn on the mesh, at any size, and what a network makes of a part of it.

A network that blends a reference says of each pixel of its square how much of it is painted anew, and from where the
rest is taken. Both are smooth, so they are enlarged, and what is drawn keeps its own sharpness.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.models.tiny_vae import Restored, bend

FADE = 0.08
"""Width of the band along the square's edges, in units of its side, over which the network's part fades out."""


def compose(drawn: Tensor, square: tuple[int, int, int, int], restored: Restored, refine: float = 1.0) -> Tensor:
    """What is drawn, with the network's changes to the square that it saw.

    Args:
        drawn: [t 3 h w] in [0, 1].
        square: left, top, right, bottom in its pixels; it may reach beyond.
        restored: of t frames, [1 t c s s].
        refine: share of the changes to take over, in [0, 1].

    Returns:
        [t 3 h w] in [0, 1].
    """
    left, top, right, bottom = square
    height, width = drawn.shape[-2:]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    side = right - left
    fade = refine * _fade(side, drawn)[..., y0 - top : y1 - top, x0 - left : x1 - left]

    def enlarged(part: Tensor) -> Tensor:
        whole = F.interpolate(part, (side, side), mode="bilinear", align_corners=False)
        return whole[..., y0 - top : y1 - top, x0 - left : x1 - left]

    seen = restored.frames.shape[-1]
    flow = enlarged(restored.flow[0]) * (side / seen) * fade
    painted, share = enlarged(restored.painted[0]), enlarged(1 - restored.mask[0]) * fade
    inside = drawn[..., y0:y1, x0:x1]
    bent = bend(inside, flow)
    result = drawn.clone()
    result[..., y0:y1, x0:x1] = (bent + share * (painted - bent)).clamp(0, 1)
    return result


def all_painted(frames: Tensor) -> Restored:
    """Frames [1 t 3 s s] of a network that blends nothing, as ``compose`` takes them."""
    nothing = torch.zeros_like(frames[:, :, :2])
    return Restored(frames, frames, nothing, frames, nothing[:, :, :1])


def _fade(side: int, like: Tensor) -> Tensor:
    """1 inside a square, falling to 0 at its edges.  [side side]"""
    place = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side
    rise = (torch.minimum(place, 1 - place) / FADE).clamp(max=1)
    return torch.minimum(rise, rise[:, None])
