"""Pictures under affine maps, sampled as OpenCV does, whose crops the released weights were trained on."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from flashportrait.errors import UserError

MARGIN = 3
"""Pixels that sampling may reach beyond a point: two taps of the cubic kernel, and one to round."""


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that lay points ``source`` [n 2] on ``target`` [n 2], least squares.  [2 3]

    With points as complex numbers z and w, both centred: w ~ a z, a = sum(conj(z) w) / sum(|z|^2). It is Umeyama's
    solution (1991) in two dimensions.

    Raises:
        UserError: all source points are one.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    z, w = ((points - mean) @ (1, 1j) for points, mean in ((source, source_mean), (target, target_mean)))
    spread = np.vdot(z, z).real
    if not spread > 0:
        raise UserError("all landmarks of the face lie on one point; give landmarks in pixels of the picture")
    a = np.vdot(z, w) / spread
    linear = np.array([[a.real, -a.imag], [a.imag, a.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """The inverse of an affine map [2 3].  [2 3]"""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [n 2] under an affine map [2 3].  [n 2]"""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp_affine(
    image: np.ndarray, matrix: np.ndarray, width: int, height: int, mode: Literal["bilinear", "bicubic"]
) -> np.ndarray:
    """A uint8 picture [h w 3] under ``matrix`` [2 3], which maps its pixels to the result's.  uint8 [height width 3]

    Pixel centres have whole coordinates; what lies outside the picture is black; the cubic kernel has a = -0.75.
    """
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    points = transform_points(np.stack([columns.ravel(), rows.ravel()], axis=1), invert_affine(matrix))
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - MARGIN, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + MARGIN + 1, image.shape[1::-1])
    if (high <= low).any():
        return np.zeros((height, width, 3), dtype=np.uint8)
    part = torch.from_numpy(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
    grid = 2 * (points - low) / np.maximum(high - low - 1, 1) - 1
    sampled = F.grid_sample(
        part.permute(2, 0, 1)[None].float(),
        torch.from_numpy(grid.reshape(1, height, width, 2)).float(),
        mode=mode,
        padding_mode="zeros",
        align_corners=True,
    )
    return sampled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
