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
    first = corners[..., 0, :]
    (ax, ay), (bx, by) = ((corners[..., k, :] - first).unbind(-1) for k in (1, 2))
    inverse = 1 / (ax * by - ay * bx)
    slopes = torch.stack((by, -bx, -ay, ax), -1).unflatten(-1, (2, 2)) * inverse[..., None, None]
    # From the first corner, where the terms are small: from (0, 0) they would cancel and lose digits.
    second_third = torch.cat((slopes, -slopes @ first.unsqueeze(-1)), -1)
    own = -second_third.sum(-2, keepdim=True)
    own[..., 2] += 1
    return torch.cat((own, second_third), -2)


def rasterize(corners: Tensor, maps: Tensor, height: int, width: int) -> Tensor:
    """The nearest triangle at each pixel centre (i + 0.5, j + 0.5).

    Triangles are cut into rows of pixels, whose ends follow from the barycentric coordinates, and rows into pixels, so
    that little is looked at beyond what is covered.

    corners: [t f 3 3] x, y in pixels and depth away from the camera; maps: their ``barycentric_maps``.
    Returns [t height width] indices of triangles, -1 where there is none.
    """
    frames, count = corners.shape[:2]
    flat, depth = corners[..., :2].flatten(0, 1), corners[..., 2].flatten(0, 1)
    edges = flat[:, 1:] - flat[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    top = (flat[..., 1].amin(1) - 0.5).ceil().clamp(0, height)
    bottom = (flat[..., 1].amax(1) - 0.5).floor().clamp(-1, height - 1)
    # Of a sliver the map may be infinite though rounding leaves it some area: one in some million triangles is such.
    solid = (area.abs() > MIN_AREA) & maps.flatten(0, 1).isfinite().all(-1).all(-1)
    triangle, below = _spread((bottom - top + 1) * solid)
    y = top[triangle] + below

    # At pixel x of a row, coordinate k is slope[k] (x + 0.5) + level[k], and so is depth.
    first, second = maps.flatten(0, 1)[:, :2].unbind(1)
    weights = torch.stack((first, second, -first - second))
    weights[2, :, 2] += 1
    planes = torch.cat((weights, torch.einsum("kfi,fk->fi", weights, depth)[None]))
    slope, across, offset = planes.permute(2, 0, 1)[..., triangle]
    level = across * (y + 0.5) + offset
    ends = (-COVERAGE_MARGIN - level[:3]) / slope[:3]
    everywhere = torch.where(level[:3] >= -COVERAGE_MARGIN, torch.inf, -torch.inf)
    left = torch.where(slope[:3] > 0, ends, torch.where(slope[:3] < 0, -torch.inf, -everywhere)).amax(0)
    right = torch.where(slope[:3] < 0, ends, torch.where(slope[:3] > 0, torch.inf, everywhere)).amin(0)
    left, right = (left - 0.5).ceil().clamp(0, width), (right - 0.5).floor().clamp(-1, width - 1)
    row, along = _spread(right - left + 1)

    # Per row of pixels first: gathering by pixel is most of the cost.
    rise = slope[3]
    start = rise * (left + 0.5) + level[3]
    place = ((triangle // count * height + y.long()) * width + left.long()).index_select(0, row) + along
    distance = torch.addcmul(start.index_select(0, row), rise.index_select(0, row), along.to(rise.dtype))
    nearest = torch.full((frames * height * width,), torch.inf, dtype=flat.dtype, device=flat.device)
    nearest.scatter_reduce_(0, place, distance, "amin")
    winners = (distance <= nearest.index_select(0, place)).nonzero().squeeze(1)
    image = torch.full((frames * height * width,), -1, dtype=torch.long, device=flat.device)
    image[place.index_select(0, winners)] = (triangle % count).index_select(0, row.index_select(0, winners))
    return image.view(frames, height, width)


def _spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For items with ``counts [n]`` parts (none where negative): each part's item, and its number within the item."""
    counts = counts.clamp_min(0).long()
    item = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return item, torch.arange(len(item), device=counts.device) - start[item]
