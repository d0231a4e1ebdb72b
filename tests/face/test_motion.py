"""Motion rows: layouts, templates, gains, relative motion, smoothing, gaps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from flashportrait.errors import UserError
from flashportrait.face.motion import (
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    LAYOUTS,
    PDFGC,
    MotionFeatures,
    bilateral,
    fill_gaps,
)

NTSC = Fraction(30000, 1001)
BLINK = BLENDSHAPES.head_pose + BLENDSHAPE_NAMES.index("eyeBlinkLeft")
JAW = BLENDSHAPES.head_pose + BLENDSHAPE_NAMES.index("jawOpen")
YAW = 0


def clip(frames: int = 12, seed: int = 0, layout=BLENDSHAPES) -> MotionFeatures:
    values = np.random.default_rng(seed).uniform(0.1, 0.6, (frames, layout.width)).astype(np.float32)
    return MotionFeatures(values, Fraction(25), layout)


def test_layouts_have_the_documented_widths():
    assert BLENDSHAPES.groups == {"head_pose": 6, "eyes": 14, "emotion": 10, "mouth": 27}
    assert PDFGC.groups == {"head_pose": 6, "eyes": 6, "emotion": 30, "mouth": 512}
    assert (BLENDSHAPES.width, PDFGC.width) == (57, 554)
    assert len(set(BLENDSHAPE_NAMES)) == 51


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_groups_tile_the_row(layout):
    columns = np.concatenate([np.arange(layout.width)[each] for each in layout.slices.values()])
    np.testing.assert_array_equal(columns, np.arange(layout.width))


def test_blendshape_names_fall_into_their_groups():
    first = {name: BLENDSHAPE_NAMES[each.start - 6] for name, each in BLENDSHAPES.slices.items() if name != "head_pose"}
    last = {name: BLENDSHAPE_NAMES[each.stop - 7] for name, each in BLENDSHAPES.slices.items() if name != "head_pose"}
    assert first == {"eyes": "eyeBlinkLeft", "emotion": "browDownLeft", "mouth": "jawForward"}
    assert last == {"eyes": "eyeWideRight", "emotion": "noseSneerRight", "mouth": "mouthUpperUpRight"}


@pytest.mark.parametrize(
    "change", [{"values": np.zeros((3, 5))}, {"values": np.zeros((0, 57))}, {"rate": 0}, {"missing": (12,)}]
)
def test_impossible_motion_is_refused(change):
    arguments = {"values": np.zeros((12, 57)), "rate": 25} | change
    with pytest.raises(UserError):
        MotionFeatures(**arguments)


def test_nan_is_refused():
    with pytest.raises(UserError, match="finite"):
        MotionFeatures(np.full((2, 57), np.nan), 25)


def test_template_round_trip_keeps_everything(tmp_path: Path):
    before = MotionFeatures(clip(7).values, NTSC, BLENDSHAPES, (0, 3), "a test")
    before.save(tmp_path / "motion.safetensors")
    after = MotionFeatures.load(tmp_path / "motion.safetensors")
    np.testing.assert_array_equal(after.values, before.values)
    assert (after.rate, after.layout, after.missing, after.provenance) == (NTSC, BLENDSHAPES, (0, 3), "a test")
    assert [path.name for path in tmp_path.iterdir()] == ["motion.safetensors"]


def test_template_is_far_smaller_than_a_picture(tmp_path: Path):
    clip(250).save(tmp_path / "motion.safetensors")
    assert (tmp_path / "motion.safetensors").stat().st_size < 250 * 57 * 4 + 2000


def test_files_that_are_no_template_are_refused(tmp_path: Path):
    text = tmp_path / "text.safetensors"
    text.write_text("not at all")
    tensors = tmp_path / "tensors.safetensors"
    save_file({"values": np.zeros((3, 57), np.float32)}, tensors)
    for path in (text, tensors, tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(UserError, match="motion template"):
            MotionFeatures.load(path)


@pytest.mark.parametrize(("key", "value"), [("version", "2"), ("layout", "arkit"), ("rate", "25/0"), ("rate", "fast")])
def test_template_with_wrong_metadata_is_refused(tmp_path: Path, key, value):
    metadata = {"format": "flashportrait-motion", "version": "1", "layout": "blendshapes", "rate": "25/1"} | {
        key: value
    }
    tensors = {"values": np.zeros((3, 57), np.float32), "missing": np.zeros(0, np.int64)}
    save_file(tensors, tmp_path / "motion.safetensors", metadata)
    with pytest.raises(UserError, match=key):
        MotionFeatures.load(tmp_path / "motion.safetensors")


def test_saving_into_a_missing_folder_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="doesn't exist"):
        clip().save(tmp_path / "absent" / "motion.safetensors")


def test_gains_of_one_change_nothing_and_of_zero_still_the_group():
    motion = clip()
    np.testing.assert_array_equal(motion.with_gains().values, motion.values)
    still = motion.with_gains(mouth=0, anchor=4)
    assert np.ptp(still.group("mouth"), axis=0).max() == 0
    np.testing.assert_allclose(still.group("mouth")[0], motion.group("mouth")[4], rtol=1e-6)
    np.testing.assert_allclose(still.group("eyes"), motion.group("eyes"), rtol=1e-6)


def test_gain_of_two_doubles_the_departure_and_stays_a_coefficient():
    motion = clip()
    doubled = motion.with_gains(head=2, eyes=2, anchor=0)
    np.testing.assert_allclose(
        doubled.group("head_pose") - motion.group("head_pose")[0],
        2 * (motion.group("head_pose") - motion.group("head_pose")[0]),
        atol=1e-6,
    )
    assert doubled.group("eyes").min() >= 0
    assert doubled.group("eyes").max() <= 1


@pytest.mark.parametrize("gain", [-1, float("nan"), float("inf")])
def test_impossible_gains_are_refused(gain):
    with pytest.raises(UserError, match="gain"):
        clip().with_gains(mouth=gain)


def test_relative_motion_starts_from_the_portrait():
    motion, portrait = clip(), np.full(57, 0.3, np.float32)
    relative = motion.relative_to(portrait, anchor=5)
    np.testing.assert_allclose(relative.values[5], portrait, atol=1e-6)
    np.testing.assert_allclose(relative.values[2, 0] - 0.3, motion.values[2, 0] - motion.values[5, 0], atol=1e-6)


def test_neutral_frame_is_frontal_with_open_eyes_and_closed_mouth():
    values = np.zeros((6, 57), np.float32)
    values[:, BLINK] = (0.9, 0.1, 0.1, 0.1, 0.05, 0.1)
    values[:, JAW] = (0.0, 0.6, 0.0, 0.05, 0.05, 0.0)
    values[:, YAW] = (0.0, 0.0, 0.4, 0.1, 0.02, 0.0)
    assert MotionFeatures(values, 25, missing=(5,)).neutral_frame() == 4
    assert MotionFeatures(values, 25).neutral_frame() == 5


def test_neutral_frame_of_an_unlabelled_layout_is_its_median():
    values = np.linspace(-1, 1, 9)[:, None] * np.ones(PDFGC.width)
    assert MotionFeatures(values, 25, PDFGC).neutral_frame() == 4


def test_smoothing_keeps_blinks_and_quiets_jitter():
    rng = np.random.default_rng(3)
    values = np.full((60, 57), 0.3, np.float32)
    values[:, :6] = rng.normal(0, 0.006, (60, 6))
    values[:, JAW] += rng.normal(0, 0.01, 60)
    values[:, BLINK] = 0.1
    values[30:33, BLINK] = (0.6, 0.9, 0.6)
    smooth = MotionFeatures(values, 25).smoothed().values
    assert smooth[31, BLINK] - smooth[0, BLINK] >= 0.9 * 0.8
    assert (np.diff(smooth[:, :6], axis=0).std(axis=0) < 0.5 * np.diff(values[:, :6], axis=0).std(axis=0)).all()
    assert np.diff(smooth[:, JAW]).std() < 0.8 * np.diff(values[:, JAW]).std()


def test_smoothing_keeps_plosives_and_nods_in_place():
    values = np.zeros((50, 57), np.float32)
    values[20:23, JAW] = (0.3, 0.5, 0.3)
    nod = 0.2 * np.sin(2 * np.pi * 2 * np.arange(50) / 25)
    values[:, 1] = nod
    smooth = MotionFeatures(values, 25).smoothed().values
    assert smooth[21, JAW] >= 0.9 * 0.5
    assert smooth[:, JAW].argmax() == 21
    assert np.abs(smooth[:, 1] - nod).max() < 0.1 * 0.2


def test_smoothing_of_strength_zero_changes_nothing():
    motion = clip()
    np.testing.assert_array_equal(motion.smoothed(0).values, motion.values)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 40), reach=st.floats(0.3, 6))
def test_bilateral_filter_keeps_constants_and_bounds(frames, reach):
    values = np.random.default_rng(frames).normal(size=(frames, 3)).astype(np.float32)
    filtered = bilateral(values, reach, 0.5)
    assert filtered.shape == values.shape
    assert (filtered.min(axis=0) >= values.min(axis=0) - 1e-6).all()
    assert (filtered.max(axis=0) <= values.max(axis=0) + 1e-6).all()
    np.testing.assert_allclose(bilateral(np.full((frames, 2), 0.7), reach, 0.1), 0.7, rtol=1e-6)


def test_bilateral_filter_without_a_limit_on_change_is_a_gaussian():
    impulse = np.zeros((41, 1))
    impulse[20] = 1
    filtered = bilateral(impulse, 2.0, 1e9)[:, 0]
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    np.testing.assert_allclose(filtered[14:27], kernel / kernel.sum(), rtol=1e-4)


def test_trimming_shifts_the_missing_frames():
    motion = MotionFeatures(clip(10).values, 25, missing=(1, 4, 9))
    part = motion.trimmed(3, 8)
    np.testing.assert_array_equal(part.values, motion.values[3:8])
    assert part.missing == (1,)
    with pytest.raises(UserError, match="choose within"):
        motion.trimmed(4, 11)


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 200), rate=st.sampled_from([Fraction(12), Fraction(24), NTSC, Fraction(25), Fraction(60)]))
def test_resampling_keeps_the_duration_and_straight_lines(frames, rate):
    ramp = np.arange(frames, dtype=np.float32)[:, None] / 25 * np.ones((1, 57), np.float32)
    motion = MotionFeatures(ramp, Fraction(25)).resampled(rate)
    assert abs(len(motion) / rate - Fraction(frames, 25)) <= max(Fraction(1, 2) / rate, 1 / rate - Fraction(frames, 25))
    times = np.minimum(np.arange(len(motion)) / float(rate), (frames - 1) / 25)
    np.testing.assert_allclose(motion.values[:, 0], times, atol=1e-4)


def test_resampling_carries_missing_frames_along():
    motion = MotionFeatures(clip(10).values, 25, missing=(4,)).resampled(Fraction(50))
    assert motion.missing == (7, 8, 9)


def test_gaps_are_interpolated_and_held_at_the_ends():
    rows = [None, np.array([0.0]), None, None, np.array([3.0]), None]
    filled, missing = fill_gaps(rows)
    np.testing.assert_allclose(filled[:, 0], [0, 0, 1, 2, 3, 3])
    assert missing == (0, 2, 3, 5)
