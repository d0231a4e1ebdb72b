"""Rows of teeth, painted flat: an arch seen from the front, each tooth rounded at its edge, gums beyond the crowns.

Distances are centimetres of an average mouth: u along it from its middle, v down from the edge of the front teeth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.rig.expression import smoothstep

UPPER_WIDTHS = (0.84, 0.64, 0.66, 0.5, 0.4)
"""Of each tooth from the middle, as seen from the front."""
UPPER_SHORTER = (0.0, 0.09, 0.03, 0.12, 0.18)
"""How much less each reaches down than the first."""
LOWER_WIDTHS = (0.52, 0.54, 0.58, 0.5, 0.42)
LOWER_SHORTER = (0.0, 0.0, 0.02, 0.08, 0.14)
CROWN_CM = 1.0
LOWER_CROWN_CM = 0.95
ROUNDING_CM = 0.09
"""How far a tooth's corners are cut off at its edge."""
GAP_CM = 0.035
GAP_SHADE = 0.2


def upper_row(u: Tensor, v: Tensor, enamel: Tensor, gum: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Colours [3 h w] and coverage [h w] of the upper teeth and gum.

    u, v: [h w]; enamel, gum: colours [3]; sharpness: of edges, per centimetre.
    """
    return _row(u, -v, UPPER_WIDTHS, UPPER_SHORTER, CROWN_CM, enamel, gum, sharpness)


def lower_row(u: Tensor, v: Tensor, enamel: Tensor, gum: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """The same of the lower ones, which stand in the upper ones' shade; v is down from their edge."""
    return _row(u, v, LOWER_WIDTHS, LOWER_SHORTER, LOWER_CROWN_CM, 0.86 * enamel, gum, sharpness)


def _row(
    u: Tensor,
    rise: Tensor,
    widths: tuple[float, ...],
    shorter: tuple[float, ...],
    crown: float,
    enamel: Tensor,
    gum: Tensor,
    sharpness: float,
) -> tuple[Tensor, Tensor]:
    """``rise``: towards the gum from the front teeth's edge."""
    side = u.abs()
    borders = u.new_tensor((0.0, *widths)).cumsum(0)
    tooth = torch.bucketize(side, borders[1:-1])
    middle, half = ((borders[1:] + borders[:-1]) / 2)[tooth], (u.new_tensor(widths) / 2)[tooth]
    place = ((side - middle) / half).clamp(-1, 1)
    above_edge = rise - u.new_tensor(shorter)[tooth] - ROUNDING_CM * place.square().square()
    covered = torch.sigmoid(above_edge * sharpness) * torch.sigmoid((borders[-1] - side) * sharpness)
    gap = torch.exp(-((1 - place.abs()) * half / GAP_CM).square())
    shade = (1 - GAP_SHADE * gap) * (1 - 0.08 * place.square()) * (1 - 0.6 * (side / borders[-1]).square().clamp(max=1))
    shade = shade * (1 - 0.1 * smoothstep((above_edge - 0.4 * crown) / crown))
    beyond_crown = smoothstep((above_edge - crown + 0.12 * (1 - place.square())) * 5)
    colour = enamel[:, None, None] + (gum - enamel)[:, None, None] * beyond_crown
    return colour * shade, covered
