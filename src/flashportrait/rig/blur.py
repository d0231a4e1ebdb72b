"""Blur by a box of any width, at the cost of a narrow one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mean(values: Tensor, radius: float, axis: int) -> Tensor:
    """Means of [c h w] over ``2 radius + 1`` pixels (3 at least) along axis 1 or 2; the box ends at the borders."""
    reach, length = max(1, round(radius)), values.shape[axis]
    # Sums from the border on.
    sums = F.pad(values.cumsum(axis), (1, 0) if axis == 2 else (0, 0, 1, 0))
    place = torch.arange(length, device=values.device)
    start, end = (place - reach).clamp_min(0), (place + reach + 1).clamp_max(length)
    count = end - start if axis == 2 else (end - start)[:, None]
    return (sums.index_select(axis, end) - sums.index_select(axis, start)) / count
