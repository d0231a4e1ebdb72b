"""Edges of what a rig draws, antialiased."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soften_edges(frames: Tensor, opening: Tensor) -> Tensor:
    """Frames [t 3 s s] with the rims of the openings [t s s] antialiased: a pixel becomes its neighbours' mean."""
    share = _local_mean(opening.unsqueeze(1).to(frames.dtype))
    rim = 1 - (2 * share - 1).abs()
    return frames + (_local_mean(frames) - frames) * rim


def soften_outlines(frames: Tensor, places: Tensor, surface: Tensor, jump: float) -> None:
    """Antialias outlines, where one part of the photo is seen before another: rewrites frames [t 3 h w].

    places: in the photo [t h w 2], of which neighbours further apart than ``jump`` are seen across an outline;
    surface: [t h w] where there is no opening, whose rims are softened apart.
    """
    outline = torch.zeros_like(surface)
    # Each plane by itself: the greater of two neighbours in memory is slow to find.
    planes = places.movedim(-1, 0).contiguous()
    for along in (1, 2):
        pairs = places.shape[along] - 1
        far_x, far_y = (plane.diff(dim=along).abs() > jump for plane in planes)
        apart = far_x | far_y
        apart &= surface.narrow(along, 0, pairs) & surface.narrow(along, 1, pairs)
        outline.narrow(along, 0, pairs).logical_or_(apart)
        outline.narrow(along, 1, pairs).logical_or_(apart)
    frame, row, column = outline.nonzero(as_tuple=True)
    height, width = surface.shape[1:]
    planes = frames.transpose(0, 1).flatten(1)
    rows = [(frame * height + (row + step).clamp(0, height - 1)) * width for step in (-1, 0, 1)]
    columns = [(column + step).clamp(0, width - 1) for step in (-1, 0, 1)]
    around = [planes.index_select(1, beside + near) for beside in rows for near in columns]
    # A straight edge leaves two thirds of a pixel's own row of three on its side, as for rims.
    frames[frame, :, row, column] = torch.lerp(around[4], torch.stack(around).mean(0), 2 / 3).mT


def _local_mean(x: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels of [t c h w]."""
    x = F.pad(x, (1, 1, 1, 1), "replicate")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9
