"""Clips made of still pictures that shift, turn and grow: enough motion to train an autoencoder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class MovingPictures:
    """Square pictures, held in memory, moved by smooth random affine paths.

    Args:
        pictures: uint8 ``[n 3 h w]``.
    """

    def __init__(self, pictures: Tensor):
        self.pictures = pictures

    @classmethod
    def from_folder(cls, folder: Path, size: int = 256) -> MovingPictures:
        """Reads every ``.jpg`` of a folder, resized to ``size`` a side."""
        arrays = []
        for path in sorted(folder.glob("*.jpg")):
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)))
        return cls(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous())

    def clips(self, count: int, frames: int, size: int, generator: torch.Generator) -> Tensor:
        """``[count frames 3 size size]`` in [0, 1]; zoom, turn, drift, flips, brightness and colour at random."""
        index = torch.randint(0, len(self.pictures), (count,), generator=generator)
        pictures = self.pictures[index].float() / 255
        pictures = _recolour(pictures, generator)
        time = torch.linspace(-1, 1, frames)

        def path(spread: float, change: float) -> Tensor:
            start, speed = torch.randn(2, count, 1, generator=generator)
            return spread * start + change * speed * time

        angle, zoom = path(0.15, 0.05), torch.exp(path(0.2, 0.05) - 0.2)
        x, y = path(0.12, 0.05), path(0.12, 0.05)
        flip = 1 - 2 * torch.randint(0, 2, (count, 1), generator=generator)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        matrix = torch.stack([torch.stack([flip * cos, -flip * sin, x], -1), torch.stack([sin, cos, y], -1)], -2)
        grid = F.affine_grid(matrix.flatten(0, 1), [count * frames, 3, size, size], align_corners=False)
        repeated = pictures.repeat_interleave(frames, 0)
        moved = F.grid_sample(repeated, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return moved.unflatten(0, (count, frames))


def _recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast and a small rotation of hue, per picture ``[n 3 h w]``."""
    count = len(pictures)
    gain = 1 + 0.15 * torch.randn(count, 3, 1, 1, generator=generator)
    offset = 0.05 * torch.randn(count, 3, 1, 1, generator=generator)
    gamma = torch.exp(math.log(1.4) * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1))
    return (pictures.clamp_min(1e-3).pow(gamma) * gain + offset).clamp(0, 1)
