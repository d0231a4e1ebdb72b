"""Metrics: zero for the same, known answers, and growing with what they are meant to notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES


@pytest.fixture
def clip() -> np.ndarray:
    """A smooth pattern moving at a steady pace  uint8 [16 40 48 3]"""
    y, x = np.mgrid[:40, :48]
    frames = [np.stack([np.sin(x / 5 + t / 3), np.cos(y / 7 - t / 4), np.sin((x + y) / 9)], axis=-1) for t in range(16)]
    return (127.5 + 100 * np.stack(frames)).astype(np.uint8)


def blurred(frames: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames])


def rows(frames: int = 20, **tracks: float) -> np.ndarray:
    """Blendshapes that rise linearly to the given values."""
    values = np.zeros((frames, 52), dtype=np.float32)
    for name, value in tracks.items():
        values[:, MEDIAPIPE_NAMES.index(name)] = np.linspace(0, value, frames)
    return values


def test_identical_input_is_perfect(clip):
    latents = torch.randn(16, 3, 4, 4)
    face, angles = rows(jawOpen=1.0, eyeLookOutLeft=0.5), np.linspace(0, 1, 60).reshape(20, 3)
    embeddings = np.eye(4)
    assert metrics.latent_relative_error(latents, latents) == 0
    assert metrics.psnr(clip, clip) == math.inf
    assert metrics.ssim(clip, clip) == 1
    assert metrics.average_expression_distance(face, face) == 0
    assert metrics.average_pose_distance(angles, angles) == 0
    assert metrics.gaze_error(face, face, MEDIAPIPE_NAMES) == pytest.approx(0, abs=1e-6)
    assert metrics.identity_similarity(embeddings, embeddings) == 1
    assert metrics.color_difference(clip, clip) == 0


def test_latent_relative_error_of_a_scaled_tensor():
    latents = torch.randn(16, 3, 4, 4)
    assert metrics.latent_relative_error(1.25 * latents, latents) == pytest.approx(0.25)


def test_psnr_of_a_constant_offset(clip):
    """An error of 10 levels everywhere: 20 log10(255 / 10)."""
    dark = clip // 2
    assert metrics.psnr(dark + 10, dark) == pytest.approx(20 * math.log10(25.5))


def test_ssim_of_two_greys():
    """Without contrast only the means count: (2ab + C1) / (a^2 + b^2 + C1)."""
    a, b = 60 / 255, 120 / 255
    grey = np.full((1, 16, 16, 3), 60, dtype=np.uint8)
    expected = (2 * a * b + metrics.SSIM_C1) / (a * a + b * b + metrics.SSIM_C1)
    assert metrics.ssim(grey, 2 * grey) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_negative_is_low(clip):
    assert metrics.ssim(255 - clip, clip) < 0


def test_pictures_get_worse_with_blur_and_delay(clip):
    for worse in (
        [blurred(clip, radius) for radius in (1, 2, 4)],
        [np.roll(clip, delay, axis=0) for delay in (1, 2, 3)],
    ):
        assert metrics.psnr(worse[0], clip) > metrics.psnr(worse[1], clip) > metrics.psnr(worse[2], clip)
        assert 1 > metrics.ssim(worse[0], clip) > metrics.ssim(worse[1], clip) > metrics.ssim(worse[2], clip)


def test_expression_distance_is_a_mean_over_coefficients_and_frames():
    assert metrics.average_expression_distance(rows(), rows() + 0.5) == pytest.approx(0.5)
    assert metrics.average_expression_distance(rows(jawOpen=1.0), rows()) == pytest.approx(0.5 / 52)


def test_expression_distance_grows_with_delay():
    face = rows(60, jawOpen=1.0, mouthSmileLeft=0.7)
    distances = [metrics.average_expression_distance(face[delay : 50 + delay], face[:50]) for delay in (0, 1, 3, 9)]
    assert distances == sorted(set(distances))


def test_pose_distance_is_in_degrees_and_wraps():
    zero = np.zeros((5, 3))
    assert metrics.average_pose_distance(zero + np.radians([3.0, 6.0, -9.0]), zero) == pytest.approx(6.0)
    assert metrics.average_pose_distance(zero + np.radians(359.0), zero) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("names", "axis", "sign"),
    [
        (("eyeLookOutLeft", "eyeLookInRight"), 0, 1),
        (("eyeLookInLeft", "eyeLookOutRight"), 0, -1),
        (("eyeLookUpLeft", "eyeLookUpRight"), 1, 1),
        (("eyeLookDownLeft", "eyeLookDownRight"), 1, -1),
    ],
)
def test_both_eyes_look_the_same_way_by_the_stated_angle(names, axis, sign):
    face = rows(2, **dict.fromkeys(names, 1.0))
    directions = metrics.gaze_directions(face, MEDIAPIPE_NAMES)
    assert directions[0].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert directions[1, :, axis] == pytest.approx([sign * 0.5] * 2)  # sin 30 degrees
    assert metrics.gaze_error(face, rows(2), MEDIAPIPE_NAMES) == pytest.approx(15.0)  # 0 and 30, averaged


def test_identity_similarity_is_the_cosine():
    reference = np.array([1.0, 0.0])
    assert metrics.identity_similarity(np.array([[0.0, 3.0]]), reference) == pytest.approx(0)
    assert metrics.identity_similarity(np.array([[2.0, 2.0], [1.0, 0.0]]), reference) == pytest.approx(
        (0.5**0.5 + 1) / 2
    )


def test_color_difference_of_known_colours():
    """White to black is 100 in lightness; sRGB red is L* 53.24, a* 80.09, b* 67.20 (D65)."""
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    red = np.zeros((1, 4, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    assert metrics.color_difference(white, black) == pytest.approx(100, abs=1e-3)
    assert metrics.color_difference(red, black) == pytest.approx(math.hypot(53.24, 80.09, 67.20), abs=0.02)


def test_color_drift_notices_a_slow_change(clip):
    steady = np.repeat(clip[:1], 40, axis=0)
    drifting = np.stack([np.clip(frame + level, 0, 255) for level, frame in enumerate(steady.astype(int))]).astype(
        np.uint8
    )
    assert metrics.color_drift(steady) == 0
    assert metrics.color_drift(drifting) > 5


def test_seam_score_is_one_without_a_seam_and_grows_with_the_jump(clip):
    assert metrics.seam_score(clip, [8]) == pytest.approx(1, abs=0.2)
    assert metrics.seam_score(np.repeat(clip[:1], 16, axis=0), [8]) == 0
    scores = []
    for jump in (10, 20, 40):
        jumped = clip.copy()
        jumped[8:] = np.clip(clip[8:].astype(int) + jump, 0, 255)
        scores.append(metrics.seam_score(jumped, [8]))
    assert 1.2 < scores[0] < scores[1] < scores[2]


def test_what_cannot_be_compared_is_said(clip):
    with pytest.raises(UserError, match="make them alike"):
        metrics.psnr(clip, clip[:-1])
    with pytest.raises(UserError, match="SSIM needs 11x11"):
        metrics.ssim(clip[:, :8, :8], clip[:, :8, :8])
    with pytest.raises(UserError, match="give frames from 1 to 15"):
        metrics.seam_score(clip, [16])
    with pytest.raises(UserError, match="embeddings of 4 and 3"):
        metrics.identity_similarity(np.ones((2, 4)), np.ones(3))
