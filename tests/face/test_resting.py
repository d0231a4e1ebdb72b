"""Performances taken over by a face that is another at rest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES, PDFGC, MotionFeatures
from flashportrait.face.resting import GAZE_A_RADIAN, RESTING_MOST, adapted, resting_expression

BROW = BLENDSHAPES.head_pose + BLENDSHAPE_NAMES.index("browInnerUp")
JAW = BLENDSHAPES.head_pose + BLENDSHAPE_NAMES.index("jawOpen")
YAW, PITCH = 0, 1


def talking(rest: float, seconds: float = 4.0) -> MotionFeatures:
    """Somebody whose inner brows rest at ``rest`` and rise to 1 now and then."""
    values = np.zeros((round(25 * seconds), BLENDSHAPES.width), np.float32)
    values[:, BROW] = rest
    values[::10, BROW] = 1
    return MotionFeatures(values, Fraction(25))


def test_a_driver_at_rest_leaves_the_portrait_at_rest_and_extremes_stay():
    own = np.zeros(BLENDSHAPES.width, np.float32)
    own[BROW] = 0.1
    taken = adapted(talking(0.3), own).values[:, BROW]
    np.testing.assert_allclose(taken[1::10], 0.1, atol=1e-6)
    np.testing.assert_allclose(taken[::10], 1)


def test_what_does_not_pass_for_a_face_at_rest_is_an_expression():
    """Of brows raised to .9 throughout, and of a portrait's open mouth, nothing but a resting face's share is taken."""
    own = np.zeros(BLENDSHAPES.width, np.float32)
    own[JAW] = 0.8
    raised = talking(0.9)
    assert resting_expression(raised.values[:, 6:])[BROW - 6] == pytest.approx(RESTING_MOST["brow"])
    taken = adapted(raised, own).values
    assert taken[1, BROW] > 0.7
    assert taken[:, JAW].max() <= RESTING_MOST["jawOpen"]


@given(st.floats(0, 0.4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_adapting_keeps_order_and_range(rest, own_brow, low, high):
    motion, own = talking(rest), np.zeros(BLENDSHAPES.width, np.float32)
    own[BROW] = own_brow
    values = motion.values.copy()
    values[1, BROW], values[2, BROW] = sorted((low, high))
    taken = adapted(MotionFeatures(values, Fraction(25)), own).values[:, BROW]
    assert (taken >= 0).all()
    assert (taken <= 1 + 1e-6).all()
    assert taken[1] <= taken[2] + 1e-6


def test_a_driver_who_reads_from_below_the_camera_looks_where_the_portrait_looks():
    values, own = np.zeros((100, BLENDSHAPES.width), np.float32), np.zeros(BLENDSHAPES.width, np.float32)
    down, out = (6 + BLENDSHAPE_NAMES.index(name) for name in ("eyeLookDownLeft", "eyeLookOutLeft"))
    values[:, down], own[out] = 0.4, 0.3
    values[50:, out] = 0.8
    taken = adapted(MotionFeatures(values, Fraction(25)), own).values
    np.testing.assert_allclose(taken[:, down], 0, atol=1e-6)
    np.testing.assert_allclose(taken[0, out], 0.3, atol=1e-6)
    assert taken[60, out] > 0.8


def test_the_same_resting_face_changes_nothing_and_pose_stays():
    motion = talking(0.2)
    own = motion.values[1]
    np.testing.assert_allclose(adapted(motion, own).values, motion.values, atol=1e-6)
    values = np.random.default_rng(0).uniform(0.1, 0.6, (100, BLENDSHAPES.width)).astype(np.float32)
    other = MotionFeatures(values, Fraction(25))
    changed = np.flatnonzero((adapted(other, np.zeros(BLENDSHAPES.width)).values != other.values).any(axis=0))
    assert changed.min() >= 6


def test_a_clip_too_short_to_tell_is_taken_as_it_is():
    short = talking(0.3, seconds=0.8)
    np.testing.assert_array_equal(adapted(short, np.full(BLENDSHAPES.width, 0.2, np.float32)).values, short.values)


def test_other_extractors_motion_is_not_adapted():
    motion = MotionFeatures(np.full((50, PDFGC.width), 0.3, np.float32), Fraction(25), PDFGC)
    assert adapted(motion, np.zeros(57)) is motion


def turning(yaw: float) -> MotionFeatures:
    """Somebody who looks to one side by ``yaw`` and swings about that by 5 degrees."""
    values = np.zeros((100, BLENDSHAPES.width), np.float32)
    values[:, YAW] = yaw + np.radians(5) * np.sin(np.arange(100) / 5)
    return MotionFeatures(values, Fraction(25))


@pytest.mark.parametrize(("yaw", "held"), [(0.0, 12.0), (30.0, 30.0), (60.0, 42.0)])
def test_a_head_at_rest_stays_away_from_its_limits_and_turns_as_the_drivers(yaw: float, held: float) -> None:
    reach = np.radians([4.0, -20, -20]), np.radians([50.0, 20, 20])
    motion = turning(np.radians(yaw))
    taken = adapted(motion, np.zeros(BLENDSHAPES.width, np.float32), reach).values
    assert np.median(np.degrees(taken[:, YAW])) == pytest.approx(held, abs=0.5)
    shift = taken[:, :3] - motion.values[:, :3]
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-6)


@pytest.mark.parametrize(("column", "along", "against"), [(YAW, "Out", "In"), (PITCH, "Up", "Down")])
def test_eyes_that_look_into_the_camera_still_do_when_the_head_is_turned_to_it(column, along, against) -> None:
    toward, away = (6 + BLENDSHAPE_NAMES.index(f"eyeLook{way}Left") for way in (along, against))
    own = np.zeros(BLENDSHAPES.width, np.float32)
    own[column], own[away] = 0.2, GAZE_A_RADIAN[column] * 0.2
    facing_camera = adapted(talking(0.0), own).values
    np.testing.assert_allclose(facing_camera[:, [toward, away]], 0, atol=1e-6)
    own[away] = 0
    looking_aside = adapted(talking(0.0), own).values
    np.testing.assert_allclose(looking_aside[:, toward], GAZE_A_RADIAN[column] * 0.2, atol=1e-6)
