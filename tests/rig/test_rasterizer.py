"""The rasteriser against a pixel-by-pixel reference."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashportrait.rig.rasterizer import barycentric_maps, rasterize


def rasterize_slowly(corners: Tensor, height: int, width: int) -> Tensor:
    """Every triangle tested at every pixel; the nearest wins."""
    rows, columns = (torch.arange(side, dtype=corners.dtype) + 0.5 for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1)
    weights = torch.einsum("tfij,yxj->tfyxi", barycentric_maps(corners[..., :2]), pixels)
    depth = torch.einsum("tfyxi,tfi->tfyx", weights, corners[..., 2])
    depth = depth.masked_fill(~(weights >= 0).all(-1), torch.inf)
    nearest, index = depth.min(1)
    return index.masked_fill(nearest.isinf(), -1)


@settings(max_examples=30, deadline=None)
@given(
    frames=st.integers(1, 3),
    count=st.integers(1, 12),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 9999),
)
def test_it_agrees_with_the_reference(frames: int, count: int, height: int, width: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(frames, count, 3, 3, generator=generator, dtype=torch.float64) * width * 1.6 - 0.3 * width
    image = rasterize(corners, barycentric_maps(corners[..., :2]), height, width)
    # Pixels within the coverage margin of an edge may go either way.
    assert (image != rasterize_slowly(corners, height, width)).sum() <= max(2, 0.01 * image.numel())


def test_nearer_triangles_hide_farther_ones_and_the_rest_is_empty():
    square = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    corners = torch.stack([torch.cat((square, torch.full((3, 1), depth)), 1) for depth in (2.0, 1.0)])[None]
    image = rasterize(corners, barycentric_maps(corners[..., :2]), 8, 8)
    assert image[0, 0, 0] == 1
    assert image[0, 7, 7] == -1


def test_triangles_without_area_cover_nothing():
    line = torch.tensor([[[[1.0, 1.0, 0.0], [5.0, 5.0, 0.0], [3.0, 3.0, 0.0]]]])
    assert (rasterize(line, barycentric_maps(line[..., :2]), 8, 8) == -1).all()


def test_slivers_whose_map_is_infinite_cover_nothing():
    """Their area isn't zero, by rounding, and they would have rows of pixels without an end."""
    sliver = [[117.99102783203125, 119.62255859375], [116.14847564697266, 122.765869140625]]
    corners = torch.tensor([[*sliver, [119.61315155029297, 116.85530090332031]]])[None]
    inf = torch.inf
    maps = torch.tensor([[inf, inf, -inf], [-inf, -inf, inf], [-inf, -inf, inf]])[None, None]
    assert (rasterize(torch.cat([corners, torch.zeros(1, 1, 3, 1)], -1), maps, 256, 256) == -1).all()
