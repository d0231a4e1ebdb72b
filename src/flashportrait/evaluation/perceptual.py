"""LPIPS: how different two pictures look, by the features of a network (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.evaluation.arrays import read_arrays

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of values in [-1, 1], by channel, before the network."""
STRIDES, PADDINGS, POOLED = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False)
"""Of AlexNet's five convolutions, and whether the maximum over 3x3 with stride 2 goes before."""
EPSILON = 1e-10
LEAST_SIDE = 32


class PerceptualDistance:
    """LPIPS v0.1 with AlexNet: sum over five layers of the mean over places of ``w (a - b)^2``, of unit features a, b.

    Args:
        path: the weights ``lpips_alex`` (``weights.hub.find_weight``).

    Raises:
        UserError: the file holds other weights.
    """

    def __init__(self, path: Path) -> None:
        arrays = read_arrays(path)
        try:
            kernels = [arrays[f"AlexNet_0/Conv_{layer}/kernel"].permute(3, 2, 0, 1).contiguous() for layer in range(5)]
            self._biases = [arrays[f"AlexNet_0/Conv_{layer}/bias"] for layer in range(5)]
            self._linear = [arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].reshape(1, -1, 1, 1) for layer in range(5)]
        except KeyError as error:
            raise UserError(f"'{path}' lacks {error.args[0]}: give the weights of LPIPS with AlexNet") from error
        self._kernels = kernels
        self._shift, self._scale = (torch.tensor(each).view(1, 3, 1, 1) for each in (SHIFT, SCALE))

    @torch.inference_mode()
    def __call__(self, pictures: Tensor, reference: Tensor) -> Tensor:
        """Distances ``[n]`` of pictures in [0, 1] ``[n 3 h w]``; 0 for equal ones.

        Raises:
            UserError: pictures too small for the network.
        """
        return torch.stack([layer.mean((1, 2)) for layer in self._layers(pictures, reference)]).sum(0)

    @torch.inference_mode()
    def by_place(self, pictures: Tensor, reference: Tensor) -> Tensor:
        """Where they differ, ``[n 1 h w]``: each layer's distances enlarged to the pictures, as LPIPS's ``spatial``.

        Raises:
            UserError: pictures too small for the network.
        """
        size = pictures.shape[-2:]
        layers = self._layers(pictures, reference)
        return torch.stack([F.interpolate(layer[:, None], size, mode="bilinear") for layer in layers]).sum(0)

    def _layers(self, pictures: Tensor, reference: Tensor) -> list[Tensor]:
        """Distances by place, ``[n h w]`` at each layer's size."""
        if min(pictures.shape[-2:]) < LEAST_SIDE:
            height, width = pictures.shape[-2:]
            raise UserError(f"pictures of {width}x{height} found; LPIPS needs {LEAST_SIDE}x{LEAST_SIDE}")
        pairs = zip(self._features(pictures), self._features(reference), self._linear, strict=True)
        return [(weight * (a - b).square()).sum(1) for a, b, weight in pairs]

    def _features(self, pictures: Tensor) -> Iterable[Tensor]:
        """Features of unit length at each place, of each layer ``[n c h w]``."""
        x = (2 * pictures - 1 - self._shift) / self._scale
        for kernel, bias, stride, padding, pooled in zip(
            self._kernels, self._biases, STRIDES, PADDINGS, POOLED, strict=True
        ):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(F.conv2d(x, kernel, bias, stride, padding))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON)
