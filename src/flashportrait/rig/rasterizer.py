"""A small z-buffered triangle rasteriser in plain torch: which triangle covers each pixel, batched over frames."""

from __future__ import annotations

import torch
from torch import Tensor

COVERAGE_MARGIN = 1e-4
"""Slack in barycentric coordinates, so that no pixel on a shared edge falls between two triangles."""
MIN_AREA = 1e-6
"""Twice the area in square pixels below which a triangle covers nothing."""


def barycentric_maps(corners: Tensor) -> Tensor:
    """Affine maps from a pixel position (x, y, 1) to barycentric coordinates.

    corners: [... 3 2] in pixels. Returns [... 3 3]; not finite where a triangle has no area.
    """
    homogeneous = torch.cat((corners, torch.ones_like(corners[..., :1])), -1)
    return torch.linalg.inv_ex(homogeneous.mT).inverse


def rasterize(corners: Tensor, maps: Tensor, size: int) -> Tensor:
    """The nearest triangle at each pixel centre (i + 0.5, j + 0.5).

    corners: [t f 3 3] x, y in pixels and depth away from the camera; maps: their ``barycentric_maps``.
    Returns [t size size] indices of triangles, -1 where there is none.
    """
    frames, count = corners.shape[:2]
    flat, maps, depth = corners[..., :2].flatten(0, 1), maps.flatten(0, 1), corners[..., 2].flatten(0, 1)
    first = (flat.amin(1) - 0.5).ceil().clamp(0, size).long()
    last = (flat.amax(1) - 0.5).floor().clamp(-1, size - 1).long()
    extent = (last - first + 1).clamp_min(0)
    edges = flat[:, 1:] - flat[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    candidates = extent[:, 0] * extent[:, 1] * (area.abs() > MIN_AREA)
    triangle = torch.repeat_interleave(candidates)
    within = torch.arange(len(triangle), device=flat.device) - (candidates.cumsum(0) - candidates)[triangle]
    width = extent[triangle, 0]
    x, y = first[triangle, 0] + within % width, first[triangle, 1] + within // width
    plane = maps.flatten(1)[triangle]
    column, row = x + 0.5, y + 0.5
    first_weight = plane[:, 0] * column + plane[:, 1] * row + plane[:, 2]
    second_weight = plane[:, 3] * column + plane[:, 4] * row + plane[:, 5]
    inside = torch.minimum(torch.minimum(first_weight, second_weight), 1 - first_weight - second_weight)
    covered = (inside >= -COVERAGE_MARGIN).nonzero().squeeze(1)
    triangle, x, y = triangle[covered], x[covered], y[covered]
    first_weight, second_weight, depth = first_weight[covered], second_weight[covered], depth[triangle]
    distance = depth[:, 2] + first_weight * (depth[:, 0] - depth[:, 2]) + second_weight * (depth[:, 1] - depth[:, 2])
    pixel = (triangle // count * size + y) * size + x
    nearest = torch.full((frames * size * size,), torch.inf, dtype=flat.dtype, device=flat.device)
    nearest.scatter_reduce_(0, pixel, distance, "amin")
    winners = distance <= nearest[pixel]
    image = torch.full((frames * size * size,), -1, dtype=torch.long, device=flat.device)
    image[pixel[winners]] = triangle[winners] % count
    return image.view(frames, size, size)
