"""Trying a portrait before a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashportrait.calibration import LEAST_SEEN, LIMITS, MOMENTS, Trial
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES
from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES, MotionFeatures

JAW, SMILE = "jawOpen", "mouthSmileLeft"


def clip(frames: int) -> MotionFeatures:
    rows = np.random.default_rng(frames).random((frames, BLENDSHAPES.width)).astype(np.float32)
    return MotionFeatures(rows, 25, missing=(0,))


class Landmarker:
    """Reads what each picture has in its first pixels: how many of 100 the jaw is open and the mouth smiles.

    A second, smaller face beside it has everything; a picture of zeros has none.
    """

    def detect(self, picture: np.ndarray) -> list[SimpleNamespace]:
        jaw, smile, faces = picture[0, 0].tolist()
        shapes = np.zeros(len(MEDIAPIPE_NAMES), np.float32)
        shapes[MEDIAPIPE_NAMES.index(JAW)], shapes[MEDIAPIPE_NAMES.index(SMILE)] = jaw / 100, smile / 100
        other = SimpleNamespace(blendshapes=np.ones_like(shapes), size=10)
        return [other, SimpleNamespace(blendshapes=shapes, size=20)] if faces else []


def pictures(trial: Trial, jaw: int, smile: int, faces: int = 2 * MOMENTS) -> list[np.ndarray]:
    """All frames of a trial; the first ``faces`` of those that are read show one."""
    frames = [np.full((4, 4, 3), 7, np.uint8) for _ in range(len(trial.motion))]
    for number, index in enumerate(trial.read):
        frames[index][0, 0] = jaw, smile, number < faces
    return frames


def asking(jaw: float, smile: float) -> Trial:
    rows = np.zeros((40, BLENDSHAPES.width), np.float32)
    rows[:, 6 + BLENDSHAPE_NAMES.index(JAW)], rows[:, 6 + BLENDSHAPE_NAMES.index(SMILE)] = jaw, smile
    return Trial.of(MotionFeatures(rows, 25))


@given(st.integers(1, 300))
def test_a_trial_holds_moments_of_the_clip_in_order_for_a_latent_frame_each(frames):
    motion = clip(frames)
    trial = Trial.of(motion)
    assert len(trial.motion) == 4 * (MOMENTS - 1) + 1
    assert not trial.motion.missing
    held = trial.motion.values[1:].reshape(MOMENTS - 1, 4, -1)
    assert (held == held[:, :1]).all()
    shown = [int(np.flatnonzero((motion.values == row).all(axis=1))[0]) for row in trial.motion.values[::4]]
    assert shown == sorted(shown)
    assert (np.diff(shown) >= frames // MOMENTS - 1).all()
    assert trial.read == (0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23, 24, 27, 28)


def test_heads_of_a_trial_are_turned_halfway_from_the_portraits_own():
    motion, own = clip(5), np.random.default_rng(0).random(BLENDSHAPES.width).astype(np.float32)
    whole, half = Trial.of(motion).motion.values, Trial.of(motion, own).motion.values
    np.testing.assert_allclose(half[:, :3], (whole[:, :3] + own[:3]) / 2, atol=1e-6)
    np.testing.assert_allclose(half[:, 3:6], whole[:, 3:6] / 2, atol=1e-6)
    assert np.array_equal(half[:, 6:], whole[:, 6:])
    assert np.array_equal(motion.values, clip(5).values)


def test_offsets_are_what_is_missing_or_too_much_on_the_largest_face():
    trial = asking(jaw=0.5, smile=0.0)
    found = trial.offsets(pictures(trial, jaw=45, smile=30), [JAW, SMILE], Landmarker())
    assert found == pytest.approx({JAW: 0.05, SMILE: -0.3})


def test_offsets_stay_within_limits():
    trial = asking(jaw=0.9, smile=0.0)
    found = trial.offsets(pictures(trial, jaw=10, smile=90), [JAW, SMILE], Landmarker())
    assert found == pytest.approx({JAW: LIMITS[1], SMILE: LIMITS[0]})


def test_offsets_need_faces():
    trial = asking(jaw=0.5, smile=0.0)
    assert trial.offsets(pictures(trial, 50, 20, faces=LEAST_SEEN), [SMILE], Landmarker()) == pytest.approx(
        {SMILE: -0.2}
    )
    assert trial.offsets(pictures(trial, 50, 20, faces=LEAST_SEEN - 1), [SMILE], Landmarker()) is None
