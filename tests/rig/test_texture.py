"""Colours of a photograph, looked up by place."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from flashportrait.rig.interior import Layers
from flashportrait.rig.streaks import Streaks, stretched_by_axis
from flashportrait.rig.texture import PhotoTexture, _window_means


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_means_of_squares_are_those_of_pooling(side: int):
    layer = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(side))
    before = layer.clone()
    torch.testing.assert_close(_window_means(layer, side), F.avg_pool2d(layer, side, stride=1))
    assert torch.equal(layer, before)


def _streaked() -> tuple[PhotoTexture, torch.Tensor]:
    """A photograph of rows of light and dark, and where its pixels are."""
    image = (torch.arange(40) % 10 < 5).float()[None, :, None].expand(3, 40, 60).clone()
    nothing = [torch.zeros(channels, 4, 4) for channels in (6, 4, 5)]
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    return PhotoTexture(image, Layers((torch.zeros(2),) * 3, *nothing), (0, 0, 50, 40), 5.0), torch.stack((x, y), -1)[
        None
    ]


def _sampled(along_x: float, along_y: float) -> torch.Tensor:
    """The photograph as it is [3 40 60], but from column 20 on stretched along x and y."""
    texture, places = _streaked()
    pixels = torch.arange(40 * 60).view(40, 60)[:, 20:].flatten()
    streaks = Streaks(pixels, torch.tensor([[along_x, along_y]], dtype=torch.float32).expand(len(pixels), 2))
    return texture.sample(places, torch.zeros(1, 40, 60), None, 1, 1.0, streaks)[0]


def test_streaks_are_blurred_across_and_not_along():
    """Rows stretched along x are streaks; stretched along y they are what they were."""
    as_it_is = _sampled(0, 0)

    def spread(along_x: float, along_y: float) -> float:
        column = (0, slice(8, 32), 30)
        return float(_sampled(along_x, along_y)[column].std() / as_it_is[column].std())

    assert spread(1, 0) < 0.1
    assert spread(0.5, 0) == pytest.approx((1 + spread(1, 0)) / 2, abs=0.05)
    assert spread(0, 1) > 0.6


def test_streaks_are_blurred_in_their_part_of_the_photograph_alone():
    streaked, as_it_is = _sampled(1, 0), _sampled(0, 0)
    for kept in (slice(20), slice(50, None)):
        assert torch.equal(streaked[..., kept], as_it_is[..., kept])
    assert not torch.equal(streaked[..., 20:50], as_it_is[..., 20:50])


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.2])
def test_stretching_is_told_by_its_direction_in_the_photo(angle: float):
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    fourfold_along_x = torch.diag(torch.tensor([1 / 4, 1.0])) @ turn
    stretched = stretched_by_axis(fourfold_along_x[None, None])[0, 0]
    torch.testing.assert_close(stretched, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    assert stretched_by_axis(turn[None, None]).abs().max() < 1e-6
    assert stretched_by_axis(turn[None, None] * 2).abs().max() < 1e-6
