"""Colours of a photograph, looked up by place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashportrait.rig.texture import _window_means


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_means_of_squares_are_those_of_pooling(side: int):
    layer = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(side))
    before = layer.clone()
    torch.testing.assert_close(_window_means(layer, side), F.avg_pool2d(layer, side, stride=1))
    assert torch.equal(layer, before)
