"""Portraits and driving clips as users bring them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPES, PDFGC, MotionFeatures
from flashportrait.inputs import (
    FaceChoice,
    Framing,
    MotionControls,
    frame_portrait,
    load_motion,
    shape_motion,
)

MOTION = MotionFeatures(np.random.default_rng(0).random((12, BLENDSHAPES.width)).astype(np.float32), Fraction(25))


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 1024), st.integers(64, 1024), st.integers(16, 512))
def test_whole_portraits_keep_their_shape_and_come_in_multiples_of_16(width, height, size):
    framed = frame_portrait(Image.new("RGB", (width, height)), Framing(), FaceChoice(), size)
    rows, columns = framed.pixels.shape[-2:]
    assert rows % 16 == columns % 16 == 0
    assert max(rows, columns) - size < 16
    scale = size / max(width, height)
    assert 0 <= rows - int(height * scale) < 17
    assert 0 <= columns - int(width * scale) < 17
    assert framed.canvas is None


def test_pixels_are_in_0_to_1():
    framed = frame_portrait(Image.new("RGB", (64, 64), (255, 0, 51)), Framing(resolution=64), FaceChoice())
    assert framed.pixels.shape == (1, 3, 64, 64)
    torch.testing.assert_close(framed.pixels[0, :, 5, 5], torch.tensor([1.0, 0.0, 0.2]))


def test_a_portrait_without_a_face_is_refused_with_the_way_on():
    with pytest.raises(UserError, match="--portrait-box"):
        frame_portrait(Image.new("RGB", (128, 128)), Framing(mode="face", resolution=64), FaceChoice())


def test_a_drawing_is_taken_where_its_box_says():
    drawing = np.zeros((100, 120, 3), dtype=np.uint8)
    drawing[30:70, 40:80] = (255, 128, 0)
    framing = Framing(mode="face", resolution=64, face_size=0.5, face_center=(0.5, 0.5))
    framed = frame_portrait(Image.fromarray(drawing), framing, FaceChoice(portrait_box=(40, 30, 80, 70)))
    orange = framed.pixels[0, 0] > 0.5
    assert orange[18:46, 18:46].all()
    assert not orange[:14].any()
    assert not orange[:, 50:].any()
    assert (framed.row == 0).all()
    assert "neutral" in framed.warning


def test_a_real_face_lands_where_the_framing_says(shared):
    from flashportrait.face.blendshapes import FaceLandmarker

    path = sorted((shared / "faces" / "examples").glob("*.*g"))[0]
    framing = Framing(mode="face", resolution=256, face_size=0.65, face_center=(0.5, 0.5))
    framed = frame_portrait(path, framing, FaceChoice(), size=512, view="face")
    assert framed.pixels.shape == (1, 3, 256, 256)
    assert framed.canvas.picture_size == (512, 512)
    pixels = (framed.pixels[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    (face,) = FaceLandmarker().detect(pixels)
    assert face.size / 256 == pytest.approx(0.65, abs=0.02)
    assert np.array(face.center) / 256 == pytest.approx((0.5, 0.5), abs=0.02)
    head_pose = framed.row[BLENDSHAPES.slices["head_pose"]]
    assert head_pose[3:] == pytest.approx([0, 0, 0])


def test_motion_passes_through_and_comes_from_templates(tmp_path):
    assert load_motion(MOTION, "blendshapes", FaceChoice()) is MOTION
    MOTION.save(tmp_path / "motion.safetensors")
    loaded = load_motion(tmp_path / "motion.safetensors", "blendshapes", FaceChoice())
    assert np.array_equal(loaded.values, MOTION.values)
    with pytest.raises(UserError, match="blendshapes"):
        load_motion(MOTION, PDFGC.name, FaceChoice())


def test_controls_in_order_smooth_then_gain_then_relative():
    portrait_row = np.full(BLENDSHAPES.width, 0.25, dtype=np.float32)
    controls = MotionControls(motion="relative", head=0.5, mouth=0.0, smooth=1.0)
    expected = MOTION.smoothed(1.0).with_gains(head=0.5, mouth=0.0).relative_to(portrait_row)
    assert np.array_equal(shape_motion(MOTION, controls, portrait_row).values, expected.values)
    as_filmed = shape_motion(MOTION, MotionControls(smooth=0), None)
    assert np.array_equal(as_filmed.values, MOTION.values)


def test_an_unknown_kind_of_motion_is_refused():
    with pytest.raises(UserError, match="adapted, absolute, relative"):
        MotionControls(motion="sideways")


@pytest.mark.parametrize(
    "frame", [np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8), "frame.png", torch.zeros(3, 4, 4)]
)
def test_driving_frames_of_another_kind_are_refused(frame):
    with pytest.raises(UserError, match="a driving frame is"):
        load_motion([frame], "blendshapes", FaceChoice(), progress=False)


def test_driving_frames_may_be_images(shared):
    path = sorted((shared / "faces" / "examples").glob("*.*g"))[0]
    with Image.open(path) as image:
        small = image.convert("RGB").resize((192, 192))
    motion = load_motion([small, np.asarray(small)], "blendshapes", FaceChoice(), progress=False)
    assert len(motion) == 2
    assert motion.rate == 25
    assert np.abs(motion.values[0] - motion.values[1]).max() < 0.1


def test_gains_and_relative_motion_measure_from_the_same_frame():
    portrait_row = np.full(BLENDSHAPES.width, 0.25, dtype=np.float32)
    anchor = MOTION.neutral_frame()
    controls = MotionControls(motion="relative", head=3.0, mouth=4.0, smooth=0)
    shaped = shape_motion(MOTION, controls, portrait_row)
    # The driver's neutral frame shows the portrait's own expression, however strong the gains.
    np.testing.assert_allclose(shaped.values[anchor], portrait_row, atol=1e-6)
