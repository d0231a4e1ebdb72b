"""FVD: the Frechet distance between two sets of clips, by I3D's logits (Unterthiner et al., 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.evaluation.arrays import read_arrays
from flashportrait.evaluation.profiles import FVD_FRAMES, FVD_SIDE, I3D

SCRIPTED_WIDTH = 400
"""Numbers that the TorchScript file gives for a clip: the logits of Kinetics-400."""
EPSILON = 1e-3
"""Of batch normalisation."""
LAYERS = (
    *("Conv3d_1a_7x7", (1, 3, 3), "Conv3d_2b_1x1", "Conv3d_2c_3x3", (1, 3, 3)),
    *("Mixed_3b", "Mixed_3c", (3, 3, 3), "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", (2, 2, 2)),
    *("Mixed_5b", "Mixed_5c"),
)
"""Convolutions and inception modules by name, and maxima by their window."""
POOLING_STRIDES = {(1, 3, 3): (1, 2, 2), (3, 3, 3): (2, 2, 2), (2, 2, 2): (2, 2, 2)}


class ClipFeatures(Protocol):
    """What tells clips apart."""

    def picture(self, frame: Tensor) -> Tensor:
        """A frame in [0, 1] ``[3 h w]`` as the network takes it ``[3 224 224]``, still in [0, 1]."""
        ...

    def __call__(self, clips: Tensor) -> Tensor:
        """Features ``[n d]`` of clips of such pictures ``[n 3 t 224 224]``."""
        ...


class VideoFeatures:
    """I3D (Carreira and Zisserman, 2017), RGB, trained on Kinetics-400.

    Args:
        path: the weights ``i3d_kinetics`` (``weights.hub.find_weight``).

    Raises:
        UserError: the file holds other weights.
    """

    def __init__(self, path: Path) -> None:
        self._arrays = read_arrays(path)
        if "params/Conv3d_1a_7x7/Conv_0/kernel" not in self._arrays:
            raise UserError(f"'{path}' holds no I3D: give the weights of kinetics-i3d")

    def picture(self, frame: Tensor) -> Tensor:
        """A frame in [0, 1] ``[3 h w]`` resized without its proportions  ``[3 224 224]``"""
        return F.interpolate(frame[None], (FVD_SIDE, FVD_SIDE), mode="bilinear", antialias=True)[0]

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Logits ``[n 400]`` of clips in [0, 1] ``[n 3 t 224 224]``."""
        x = 2 * clips - 1
        for layer in LAYERS:
            if isinstance(layer, tuple):
                x = _max_pool(x, layer, POOLING_STRIDES[layer])
            elif layer.startswith("Mixed"):
                x = self._inception(x, layer)
            else:
                x = self._unit(x, layer, stride=2 if layer == "Conv3d_1a_7x7" else 1)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        name = "params/Logits/Conv3d_0c_1x1/Conv_0"
        kernel = self._arrays[f"{name}/kernel"].permute(4, 3, 0, 1, 2)
        return F.conv3d(x, kernel, self._arrays[f"{name}/bias"]).mean((2, 3, 4))

    def _inception(self, x: Tensor, name: str) -> Tensor:
        def branch(number: int, *units: str, of: Tensor = x) -> Tensor:
            for unit in units:
                of = self._unit(of, f"{name}/Branch_{number}/{unit}")
            return of

        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat(
            [
                branch(0, "Conv3d_0a_1x1"),
                branch(1, "Conv3d_0a_1x1", "Conv3d_0b_3x3"),
                branch(2, "Conv3d_0a_1x1", "Conv3d_0b_3x3"),
                branch(3, "Conv3d_0b_1x1", of=pooled),
            ],
            dim=1,
        )

    def _unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """Convolution, batch normalisation without a scale, and ReLU."""
        kernel = self._arrays[f"params/{name}/Conv_0/kernel"].permute(4, 3, 0, 1, 2)
        x = F.conv3d(_pad(x, tuple(kernel.shape[2:]), (stride,) * 3, 0.0), kernel, stride=stride)
        mean, variance = (self._arrays[f"batch_stats/{name}/BatchNorm_0/{part}"].flatten() for part in ("mean", "var"))
        bias = self._arrays[f"params/{name}/BatchNorm_0/bias"]
        return F.relu(F.batch_norm(x, mean, variance, None, bias, eps=EPSILON))


class ScriptedVideoFeatures:
    """I3D as the TorchScript file holds it that most code for FVD shares (StyleGAN-V, Skorokhodov et al., 2022).

    Args:
        path: ``i3d_torchscript.pt``.

    Raises:
        UserError: there is no file, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        I3D.found(path)
        try:
            self._network = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise I3D.refusal(path, "isn't a TorchScript network") from error
        try:
            found = self(torch.zeros(1, 3, FVD_FRAMES, FVD_SIDE, FVD_SIDE))
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = "is a network that isn't called with clips, rescale, resize and return_features"
            raise I3D.refusal(path, reason) from error
        if not isinstance(found, Tensor) or found.shape != (1, SCRIPTED_WIDTH):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise I3D.refusal(path, f"gives {shape} for a clip, not [1, {SCRIPTED_WIDTH}]")

    def picture(self, frame: Tensor) -> Tensor:
        """A frame in [0, 1] ``[3 h w]``, its shorter side resized, cut to the middle square  ``[3 224 224]``"""
        height, width = frame.shape[1:]
        scale = FVD_SIDE / min(height, width)
        size = [FVD_SIDE if side == min(height, width) else math.ceil(side * scale) for side in (height, width)]
        resized = F.interpolate(frame[None], size, mode="bilinear")[0]
        top, left = ((side - FVD_SIDE) // 2 for side in size)
        return resized[:, top : top + FVD_SIDE, left : left + FVD_SIDE]

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Logits ``[n 400]`` of clips in [0, 1] ``[n 3 t 224 224]``."""
        return self._network(2 * clips - 1, rescale=False, resize=False, return_features=True)


def _max_pool(x: Tensor, window: Sequence[int], strides: Sequence[int]) -> Tensor:
    return F.max_pool3d(_pad(x, window, strides, -torch.inf), tuple(window), tuple(strides))


def _pad(x: Tensor, window: Sequence[int], strides: Sequence[int], value: float) -> Tensor:
    """So that the output has ceil(size / stride) places, the odd one at the end (TensorFlow's "same")."""
    margins: list[int] = []
    for size, length, stride in reversed(list(zip(x.shape[2:], window, strides, strict=True))):
        total = max((-(-size // stride) - 1) * stride + length - size, 0)
        margins += [total // 2, total - total // 2]
    return F.pad(x, margins, value=value) if any(margins) else x


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of two sets of features ``[n d]``, float64.

    Raises:
        UserError: fewer than two in a set.
    """
    if min(len(features), len(reference)) < 2:
        raise UserError(f"{len(features)} and {len(reference)} clips found; FVD needs 2 or more of each")
    a, b = features.astype(np.float64), reference.astype(np.float64)
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    # With centred features A, B: S1 = A'A, S2 = B'B, and tr (S1 S2)^(1/2) is the sum of the singular values of A B',
    # which stay the same when A and B are replaced by the triangles of their QR decompositions.
    root_a, root_b = (np.asarray(np.linalg.qr(_centred(each), mode="r")) for each in (a, b))
    traces = np.square(root_a).sum() + np.square(root_b).sum()
    return float(max(0.0, mean + traces - 2 * np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()))


def _centred(features: np.ndarray) -> np.ndarray:
    """Features without their mean, so scaled that their Gram matrix is the covariance."""
    return (features - features.mean(0)) / np.sqrt(len(features) - 1)
