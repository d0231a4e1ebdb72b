"""Outlines of what is drawn, antialiased."""

from __future__ import annotations

import pytest
import torch

from flashportrait.rig.edges import soften_outlines


def test_outlines_are_softened_and_nothing_else_is():
    frames = torch.zeros(1, 3, 9, 12)
    frames[..., 6:] = 1
    frames[..., 3, 2] = 0.5  # a detail of the photo's own
    places = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(9.0), indexing="xy"), -1)[None]
    places[:, :, 6:, 0] += 50
    surface = torch.ones(1, 9, 12, dtype=torch.bool)
    surface[:, 7:] = False  # an opening below
    before = frames.clone()
    soften_outlines(frames, places, surface, 6.0)
    assert frames[0, 0, 2, 4:8].tolist() == pytest.approx([0, 2 / 9, 7 / 9, 1])
    frames[:, :, :7, 5:7] = before[:, :, :7, 5:7]
    assert torch.equal(frames, before)


def test_an_outline_at_the_pictures_border_is_softened():
    frames = torch.zeros(1, 1, 2, 2)
    frames[..., 1] = 1
    places = torch.zeros(1, 2, 2, 2)
    places[:, :, 1] = 100
    soften_outlines(frames, places, torch.ones(1, 2, 2, dtype=torch.bool), 6.0)
    assert (frames[..., 0] > 0).all()
    assert (frames[..., 1] < 1).all()
