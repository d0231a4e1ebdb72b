"""Rings of triangles around the face: they carry hair and neck along, and come to rest at the picture's border."""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.rig.expression import smoothstep
from flashportrait.rig.landmarks import LANDMARKS

RINGS = (0.05, 0.12, 0.22, 0.35, 0.5, 0.7, 1.0)
"""Rings around the face, as fractions of the way from its outline to beyond the picture's border."""
OVERHANG = 0.15
"""How far beyond the picture's border the last ring lies, in units of its side, where the border may move."""
RING_DEPTH_CM = 2.0
"""How far behind the face's outline the rings lie: little enough for hair to turn with the face without folding."""


def place_rings(
    landmarks: Tensor, oval: list[int], shape: Tensor, rotation: Tensor, scale: Tensor, overhang: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [36 k 3], share of the head's motion [36 k 1] and of the outline's expression [36 k 1].

    landmarks: [478 3] in the photo's pixels; oval: the outline's 36; shape: width and height of the photo; rotation
    [3 3] and scale: of the head in it; overhang: how far beyond its border the last ring lies, in units of its side.
    """
    outline = landmarks[oval]
    middle = outline[:, :2].mean(0)
    ray = outline[:, :2] - middle
    radius = ray.norm(dim=1, keepdim=True)
    direction = ray / radius
    beyond = overhang * shape
    box = torch.where(direction > 0, shape + beyond - middle, middle + beyond)
    reach = (box / direction.abs().clamp_min(1e-6)).amin(1, keepdim=True).maximum(1.6 * radius)
    fraction = landmarks.new_tensor(RINGS)[:, None, None]
    position = middle + direction * (radius + (reach - radius) * fraction)
    back = (outline[:, 2].amax() - outline[:, 2:]).clamp(max=RING_DEPTH_CM * scale)
    depth = outline[:, 2:] + back * (fraction / 0.5).clamp(max=1.0)
    down = (direction @ rotation[:2, 1]).clamp_min(0)[:, None]
    start, end = 0.22 * (1 - down), 1.0 - 0.35 * down
    share = 1 - smoothstep((fraction - start) / (end - start))
    carry = 1 - smoothstep(fraction / 0.35)
    depth = depth.expand(len(RINGS), -1, -1)
    rings = torch.cat((position, depth), -1).flatten(0, 1)
    return rings, share.flatten(0, 1), carry.expand_as(share).flatten(0, 1)


def ring_triangles(oval: list[int], device: torch.device) -> Tensor:
    """Two triangles for each quad between consecutive loops, the face's outline and the rings, [504 3]."""
    count, rings = len(oval), len(RINGS)
    loops = torch.cat((torch.tensor(oval), LANDMARKS + torch.arange(rings * count))).view(rings + 1, count)
    inner, outer = loops[:-1], loops[1:]
    inner_next, outer_next = inner.roll(-1, 1), outer.roll(-1, 1)
    first, second = torch.stack((inner, outer, outer_next), -1), torch.stack((inner, outer_next, inner_next), -1)
    return torch.cat((first, second)).flatten(0, 1).to(device)
