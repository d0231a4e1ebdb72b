"""Where a mesh stretches a photograph so much that its details become streaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flashportrait.rig.expression import smoothstep

STREAKS = (0.3, 0.6)
"""Size in the photo, over the size drawn, below which details are all streaks, and above which none is."""
LEAST_STREAK = 0.02
"""Share of streaks up to which a triangle is left as it is."""
STREAK_CM = 0.25
"""How far streaks are blurred, to each side of them."""


class Streaks(NamedTuple):
    """Pixels that show streaks."""

    pixels: Tensor
    """Their numbers, in all frames [n]."""
    stretched: Tensor
    """How much the photo is stretched there along its x and y, in [0, 1], [n 2]."""


def stretched_by_axis(jacobian: Tensor) -> Tensor:
    """How much what is drawn stretches the photo along its x and its y, in [0, 1], [t f 2].

    ``jacobian`` [t f 2 2]: change of place in the photo by place drawn, over what it is where nothing moves.
    """
    gram = jacobian @ jacobian.mT
    xx, xy, yy = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    spread = ((xx - yy).square() + 4 * xy.square()).sqrt()
    least = ((xx + yy - spread) / 2).clamp_min(0).sqrt()
    # Of the direction that is stretched: its share along x.
    along_x = (0.5 * (1 - (xx - yy) / spread.clamp_min(1e-9))).clamp(0, 1)
    share = 1 - smoothstep((least - STREAKS[0]) / (STREAKS[1] - STREAKS[0]))
    return share.unsqueeze(-1) * torch.stack((along_x, 1 - along_x), -1)


def streaked_part(landmarks: Tensor, shape: Tensor, margin: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of where streaks are smoothed: around landmarks [k 3], with a margin, in a picture of
    width and height ``shape`` [2]."""
    low = (landmarks[:, :2].amin(0) - margin).clamp_min(0).minimum(shape - 2)
    high = (landmarks[:, :2].amax(0) + margin).minimum(shape).maximum(low + 2)
    (left, top), (right, bottom) = low.long().tolist(), high.long().tolist()
    return left, top, right, bottom
