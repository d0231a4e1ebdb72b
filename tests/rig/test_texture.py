"""Colours of a photograph, looked up by place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashportrait.rig.interior import Layers
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
    return PhotoTexture(image, Layers((torch.zeros(2),) * 3, *nothing), 10.0), torch.stack((x, y), -1)[None]


@pytest.mark.parametrize(("axis", "left"), [(0, 0.15), (1, 0.9)])
def test_streaks_are_blurred_across_and_not_along(axis: int, left: float):
    """Rows stretched along x are streaks; stretched along y they are what they were."""
    texture, places = _streaked()
    frames = texture.sample(places, torch.zeros(1, 40, 60), None, 1, 1.0)
    before = frames.clone()
    stretched = torch.zeros(1, 40, 60, 2)
    stretched[:, :, 20:, axis] = 1
    texture.smooth(frames, places, stretched, torch.ones(1, 40, 60, dtype=torch.bool))
    assert torch.equal(frames[..., :20], before[..., :20])
    spread = frames[0, 0, 8:32, 30].std() / before[0, 0, 8:32, 30].std()
    assert float(spread) == pytest.approx(left, abs=0.12)


def test_what_is_painted_is_not_blurred():
    texture, places = _streaked()
    frames = texture.sample(places, torch.zeros(1, 40, 60), None, 1, 1.0)
    before = frames.clone()
    texture.smooth(frames, places, torch.ones(1, 40, 60, 2), torch.zeros(1, 40, 60, dtype=torch.bool))
    assert torch.equal(frames, before)
