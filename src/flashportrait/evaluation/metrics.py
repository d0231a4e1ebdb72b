"""How far a result is from a reference: pictures, colours, expression, head pose, gaze, identity, seams.

All are pure functions of arrays; ``flashportrait.evaluation.extractors`` reads faces and identities from frames.
Frames are uint8 RGB ``[t h w 3]``. Rows of blendshapes, angles and embeddings are one a frame. Figures of expression,
pose and gaze depend on the extractor: they compare runs measured alike, and never with numbers published elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flashportrait.errors import UserError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""For values in [0, 1]: (K L)^2 with K1 = 0.01, K2 = 0.03 and L = 1."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of R, G and B in Rec. 601 luma."""
GAZE_RANGE_DEGREES = 30.0
"""The turn of an eye that an eyeLook coefficient of 1 stands for here; ARKit defines none."""
LEAST_MOTION = 0.02
"""Change of a motion row from frame to frame below which a driver keeps still, in coefficients and radians."""
SEAM_NEIGHBOURHOOD = 8
"""Frames on either side that a seam's change is compared with."""


def latent_relative_error(latents: Tensor, reference: Tensor) -> float:
    """``|latents - reference| / |reference|``: Euclidean norms over all elements, 0 for equal tensors."""
    _check_shapes(latents.shape, reference.shape, "latents")
    reference = reference.double()
    return float((latents.double() - reference).norm() / reference.norm())


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of a clip in dB, ``10 log10(255^2 / mse)`` with the error averaged over the clip.

    Infinite for equal clips.
    """
    _check_shapes(frames.shape, reference.shape, "frames")
    squared = [np.square(a.astype(np.float32) - b).mean() for a, b in zip(frames, reference, strict=True)]
    mse = float(np.mean(squared))
    return 10.0 * math.log10(255.0**2 / mse) if mse > 0 else math.inf


def ssim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of luma, in [-1, 1] and 1 for equal clips, averaged over pixels and frames.

    Wang et al. 2004: 11x11 Gaussian window of standard deviation 1.5, only where the window lies inside the frame.

    Raises:
        UserError: frames smaller than the window.
    """
    _check_shapes(frames.shape, reference.shape, "frames")
    if min(frames.shape[1:3]) < SSIM_WINDOW:
        raise UserError(f"frames of {frames.shape[2]}x{frames.shape[1]} found; SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW}")
    return float(np.mean([_ssim_frame(_luma(a), _luma(b)) for a, b in zip(frames, reference, strict=True)]))


def average_expression_distance(blendshapes: np.ndarray, reference: np.ndarray) -> float:
    """AED: mean absolute difference of the 52 coefficients ``[t 52]`` over frames; 0 to 1."""
    _check_shapes(blendshapes.shape, reference.shape, "blendshapes")
    return float(np.abs(blendshapes - reference).mean())


def average_pose_distance(angles: np.ndarray, reference: np.ndarray) -> float:
    """APD: mean absolute difference of yaw, pitch and roll ``[t 3]``, radians, over frames; in degrees."""
    _check_shapes(angles.shape, reference.shape, "angles")
    difference = np.remainder(angles - reference + np.pi, 2 * np.pi) - np.pi
    return float(np.degrees(np.abs(difference).mean()))


def gaze_error(blendshapes: np.ndarray, reference: np.ndarray, names: Sequence[str]) -> float:
    """Gaze MAE: mean angle between the two gaze directions of each eye, relative to the head; in degrees.

    Directions come from the eyeLook coefficients, linear up to ``GAZE_RANGE_DEGREES`` at 1.

    Args:
        blendshapes: coefficients ``[t 52]``.
        reference: the same of the reference.
        names: the coefficients' ARKit names, in their order.
    """
    _check_shapes(blendshapes.shape, reference.shape, "blendshapes")
    cosines = (gaze_directions(blendshapes, names) * gaze_directions(reference, names)).sum(axis=-1)
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).mean())


def gaze_directions(blendshapes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Unit vectors ``[t 2 3]`` of the left and right eye: x to the subject's left, y up, z straight ahead."""
    column = {name: blendshapes[:, index].astype(np.float64) for index, name in enumerate(names)}
    left = [column["eyeLookOutLeft"] - column["eyeLookInLeft"], column["eyeLookUpLeft"] - column["eyeLookDownLeft"]]
    right = [
        column["eyeLookInRight"] - column["eyeLookOutRight"],
        column["eyeLookUpRight"] - column["eyeLookDownRight"],
    ]
    yaw, pitch = np.radians(GAZE_RANGE_DEGREES) * np.stack([left, right], axis=-1)
    return np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=-1)


def identity_similarity(embeddings: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine between identity embeddings ``[t d]`` and a reference, ``[t d]`` or one ``[d]``; 1 for the same."""
    if embeddings.shape[-1] != reference.shape[-1]:
        raise UserError(f"embeddings of {embeddings.shape[-1]} and {reference.shape[-1]} numbers can't be compared")
    norms = np.linalg.norm(embeddings, axis=-1) * np.linalg.norm(reference, axis=-1)
    return float(((embeddings * reference).sum(axis=-1) / norms).mean())


def color_difference(frames: np.ndarray, reference: np.ndarray) -> float:
    """CIE 1976 colour difference (dE*ab) of the frames' mean colours, averaged over frames; about 2 is just seen."""
    if len(frames) != len(reference):
        raise UserError(f"{len(frames)} and {len(reference)} frames can't be compared; give clips of one length")
    return float(np.linalg.norm(mean_lab(frames) - mean_lab(reference), axis=-1).mean())


def color_drift(frames: np.ndarray) -> float:
    """CIE 1976 colour difference between the mean colours of the clip's first and last tenth."""
    part = max(1, len(frames) // 10)
    return float(np.linalg.norm(mean_lab(frames[:part]).mean(axis=0) - mean_lab(frames[-part:]).mean(axis=0)))


def seam_score(frames: np.ndarray, seams: Sequence[int]) -> float:
    """How much more the picture changes at seams than around them; about 1 where no seam shows, 0 for a still clip.

    The mean of ``seam_ratios`` over seams.

    Args:
        frames: the clip.
        seams: first frames of the windows after the first.

    Raises:
        UserError: no seams, or one outside the clip.
    """
    if not seams or not all(0 < seam < len(frames) for seam in seams):
        raise UserError(f"seams {list(seams)} found in {len(frames)} frames; give frames from 1 to {len(frames) - 1}")
    return float(seam_ratios([frame_change(a, b) for a, b in itertools.pairwise(frames)], seams).mean())


def seam_ratios(changes: Sequence[float], seams: Sequence[int], least: float = 1e-6) -> np.ndarray:
    """For each seam, the change from frame ``seam - 1`` to ``seam`` over the median change of frames around it.  [n]

    Around are up to ``SEAM_NEIGHBOURHOOD`` frames on either side; with none, the ratio is 1.

    Args:
        changes: ``changes[i]`` is ``frame_change``, or another measure of change, from frame i to i + 1.
        seams: frames, from 1.
        least: a median below this counts as this.
    """
    changes, seams_set = np.asarray(changes), set(seams)
    ratios = []
    for seam in seams:
        around = range(max(0, seam - 1 - SEAM_NEIGHBOURHOOD), min(len(changes), seam + SEAM_NEIGHBOURHOOD))
        others = [i for i in around if i + 1 not in seams_set]
        usual = np.median(changes[others or [seam - 1]])
        ratios.append(changes[seam - 1] / max(float(usual), least))
    return np.array(ratios)


def unexplained_seam_ratios(
    changes: Sequence[float], seams: Sequence[int], followed: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """``seam_ratios`` of the picture, over those of what it follows where that speeds up at the seam.  [n]

    Args:
        changes: of the picture, ``frame_change`` from frame i to i + 1.
        seams: frames, from 1.
        followed: motion rows, or some columns of them, one each frame  [t d]; the one that speeds up most counts.
    """
    ratios = seam_ratios(changes, seams)
    explained = np.ones_like(ratios)
    for rows in followed:
        moved = np.linalg.norm(np.diff(rows, axis=0), axis=1)
        explained = np.maximum(explained, seam_ratios(moved, seams, LEAST_MOTION))
    return ratios / explained


def frame_change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two uint8 frames."""
    return float(np.abs(after.astype(np.float32) - before).mean())


def _ssim_frame(a: Tensor, b: Tensor) -> float:
    """Mean SSIM of two luma pictures ``[1 1 h w]`` in [0, 1]."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    gaussian = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    gaussian = gaussian / gaussian.sum()

    def blur(x: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(x, gaussian.view(1, 1, -1, 1))
        return torch.nn.functional.conv2d(rows, gaussian.view(1, 1, 1, -1))

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (mean_a**2 + mean_b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2)
    )
    return float(similarity.mean())


def _luma(frame: np.ndarray) -> Tensor:
    """uint8 RGB ``[h w 3]`` -> luma ``[1 1 h w]`` in [0, 1], float64 as the variances are small differences."""
    return torch.from_numpy(frame.astype(np.float64) @ LUMA.astype(np.float64) / 255.0)[None, None]


def mean_lab(frames: np.ndarray) -> np.ndarray:
    """Mean CIE L*a*b* colour of each frame ``[t 3]`` (D65): the mean of linear light, then converted."""
    value = np.arange(256) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.stack([linear[frame].mean(axis=(0, 1)) for frame in frames])
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = light @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


def _check_shapes(shape: Sequence[int], reference: Sequence[int], what: str) -> None:
    if tuple(shape) != tuple(reference):
        raise UserError(f"{what} of shape {list(shape)} can't be compared with {list(reference)}; make them alike")
