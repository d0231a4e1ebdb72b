"""Glasses in a photograph: they don't take part in what a face does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.expression import smoothstep
from flashportrait.rig.landmarks import UPPER_LIDS

STEP = 0.01
"""Distance of the places looked at, in units of that between the eyes' outer corners, as all that follows."""
BRIDGE = ((-0.13, 0.13), (-0.3, 0.17))
"""Where glasses cross the nose, across and down from between the eyes' inner corners."""
AROUND = ((-0.55, 0.55), (-0.05, 0.3))
"""What is dark or light there is measured against."""
LEAST_LIGHT = 0.08
EDGE = (0.08, 0.16)
"""Change of light over a step, as a share of the light around, from which glasses are likely, and are sure."""


def glasses_seen(image: Tensor, landmarks: Tensor) -> float:
    """How sure it is that the face wears glasses, from 0 to 1.

    A nose is smooth between the eyes, and the bridge of glasses has edges all the way across. Deep folds and hard
    shadows are taken for glasses at times, and glasses without rims missed, of which nothing is seen to bend
    (``benchmarks/gaze_and_glasses.py``).

    Args:
        image: [3 h w] in [0, 1].
        landmarks: [478 3] in its pixels.
    """
    bridge, around = (_light(image, landmarks[:, :2], *area) for area in (BRIDGE, AROUND))
    edges = bridge.diff(dim=0).abs().median(1).values
    share = edges.amax() / (around.median() + LEAST_LIGHT)
    return float(smoothstep((share - EDGE[0]) / (EDGE[1] - EDGE[0])))


def _light(image: Tensor, points: Tensor, across: tuple[float, float], down: tuple[float, float]) -> Tensor:
    """Mean of the colours at places ``STEP`` apart between the eyes, [rows columns]."""
    right, left = (points[[lids[0], lids[-1]]] for lids in UPPER_LIDS)
    middle, side = (right[1] + left[1]) / 2, left[0] - right[0]
    below = torch.stack((-side[1], side[0]))
    x, y = (torch.arange(start, end, STEP, device=image.device) for start, end in (across, down))
    places = middle + x[None, :, None] * side + y[:, None, None] * below
    size = places.new_tensor([image.shape[2], image.shape[1]])
    grid = (places / size * 2 - 1)[None].to(image)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0].mean(0)
