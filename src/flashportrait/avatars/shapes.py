"""Basic shapes and blending functions for drawing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Pair = tuple[Any, Any]
"""Along u and along v: numbers, or tensors that broadcast to the picture."""


def per_row(value: Tensor) -> Tensor:
    """One number a row, shaped to broadcast over pictures.  [n] -> [n 1 1]"""
    return value[:, None, None]


def per_row_color(value: Tensor) -> Tensor:
    """One colour a row, shaped to broadcast over pictures.  [n 3] -> [n 3 1 1]"""
    return value[:, :, None, None]


def over(base: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    """``color`` [n 3], [3] or [n 3 h w] laid over ``base`` [n 3 h w] with opacity ``alpha`` [n h w]."""
    if color.dim() < 4:
        color = color.reshape(-1, 3, 1, 1)
    return torch.lerp(base, color, alpha[:, None])


def coverage(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Share of a pixel inside a shape, given the signed distance of its centre (> 0 outside)."""
    return (0.5 - distance / pixel).clamp(0, 1)


def smoothstep(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bump(u: Tensor, v: Tensor, at: Pair, spread: Pair) -> Tensor:
    """A Gaussian of height 1 at ``at``, with a spread along u and along v."""
    return torch.exp(-0.5 * ((u - at[0]) / spread[0]) ** 2) * torch.exp(-0.5 * ((v - at[1]) / spread[1]) ** 2)


def segment_distance(u: Tensor, v: Tensor, start: Pair, end: Pair) -> Tensor:
    """Distance to the segment from ``start`` to ``end``."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = (((u - start[0]) * du + (v - start[1]) * dv) / (du * du + dv * dv)).clamp(0, 1)
    return torch.hypot(u - start[0] - along * du, v - start[1] - along * dv)
