"""Portrait crops: where the face lands, what is made up, and drawings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceObservation
from flashportrait.face.crop import LEEWAY, _cautions, _moved_inside, align_portrait, crop_square

DRAWING = np.full((300, 200, 3), (240, 200, 160), np.uint8)


@pytest.mark.parametrize("name", ["liveportrait_s42", "flashportrait_case2", "azure_Family1-Son1"])
def test_the_face_lands_where_it_should(landmarker, portrait, name):
    crop = align_portrait(portrait(name), landmarker, size=256)
    assert crop.image.size == (256, 256)
    assert crop.warning is None
    np.testing.assert_allclose(crop.row[:6], (crop.face.yaw, crop.face.pitch, crop.face.roll, 0, 0, 0), atol=1e-6)
    (again,) = landmarker.detect(np.asarray(crop.image))
    assert again.size / 256 == pytest.approx(0.5, abs=0.03)
    side = crop.box[2] - crop.box[0]
    moved = [
        _moved_inside(start, length, side) - start
        for start, length in zip(wanted_corner(crop, side), portrait(name).shape[1::-1], strict=True)
    ]
    np.testing.assert_allclose(np.array(again.center) / 256, (0.5, 0.46) - np.array(moved) / side, atol=0.02)


def wanted_corner(crop, side):
    """Where the crop would begin in a picture without end."""
    return crop.face.center[0] - 0.5 * side, crop.face.center[1] - 0.46 * side


@given(start=st.floats(-200, 200), length=st.integers(1, 300), side=st.floats(1, 300))
def test_a_crop_is_moved_towards_the_picture_and_no_further_than_the_leeway(start, length, side):
    moved = _moved_inside(start, length, side)
    made_up = [max(0.0, -begin) + max(0.0, begin + side - length) for begin in (start, moved)]
    assert abs(moved - start) <= LEEWAY * side + 1e-9
    assert made_up[1] <= made_up[0] + 1e-9
    if made_up[0] == 0:
        assert moved == start
    elif side <= length and made_up[0] <= LEEWAY * side:
        assert made_up[1] == pytest.approx(0, abs=1e-9)


def test_fraction_and_centre_are_arguments(landmarker, portrait):
    image = portrait("liveportrait_s42")
    crop = align_portrait(image, landmarker, size=200, face_fraction=0.7, center=(0.4, 0.5))
    (again,) = landmarker.detect(np.asarray(crop.image))
    assert again.size / 200 == pytest.approx(0.7, abs=0.04)
    np.testing.assert_allclose(np.array(again.center) / 200, (0.4, 0.5), atol=0.02 + LEEWAY)


def test_no_face_is_an_error_that_names_the_way_out(landmarker):
    with pytest.raises(UserError, match=r"200x300.*--portrait-box"):
        align_portrait(DRAWING, landmarker)


def test_a_drawing_is_cropped_by_its_box_with_a_warning(landmarker):
    crop = align_portrait(DRAWING, landmarker, face_box=(50, 100, 150, 220), size=128)
    assert crop.face is None
    assert "neutral" in crop.warning
    assert not crop.row.any()
    np.testing.assert_allclose(crop.box, (100 - 120, 160 - 0.46 * 240, 100 + 120, 160 + 0.54 * 240))
    assert np.abs(np.asarray(crop.image).astype(int) - DRAWING[0, 0]).max() <= 1


def test_a_box_outside_the_picture_is_an_error(landmarker):
    with pytest.raises(UserError, match="outside the picture of 200x300"):
        align_portrait(DRAWING, landmarker, face_box=(250, 0, 280, 50))


def test_a_square_inside_the_picture_is_taken_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_square(pixels, (20, 10, 52, 42), 32), pixels[10:42, 20:52])


def test_beyond_the_picture_lies_its_blurred_mirror_image():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 200
    crop = np.asarray(crop_square(pixels, (32, 0, 96, 64), 64))
    assert (crop[:, :28] == 200).all(), "the true part"
    assert (crop[:, 34:] > 150).all(), "the mirrored part is of the colour beside it"


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    side=st.floats(2, 300),
    size=st.integers(8, 70),
    seed=st.integers(0, 99),
)
def test_crops_of_any_shape_come_out_square_and_within_range(width, height, side, size, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(50, 200, (height, width, 3), dtype=np.uint8)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    crop = crop_square(pixels, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), size)
    assert crop.size == (size, size)
    if width > 8 and height > 8 and side > 16:
        assert np.asarray(crop).min() > 0


def face_of(center=(150.0, 150.0), size=120.0, yaw=0.0, pitch=0.0) -> FaceObservation:
    half = size / 2
    box = (center[0] - half, center[1] - half, center[0] + half, center[1] + half)
    return FaceObservation(
        landmarks=np.zeros((478, 3), np.float32),
        score=1.0,
        blendshapes=np.zeros(52, np.float32),
        yaw=np.radians(yaw),
        pitch=np.radians(pitch),
        roll=0.0,
        center=center,
        size=size,
        box=box,
    )


@pytest.mark.parametrize(
    ("face", "others", "words"),
    [
        (face_of(yaw=-42), [], "turned by 42 degrees"),
        (face_of(pitch=35), [], "tilted by 35 degrees"),
        (face_of(size=40), [], "40 px high"),
        (face_of(center=(20.0, 150.0)), [], "outside the picture"),
        (face_of(), [face_of(center=(290.0, 150.0))], "another face is near"),
    ],
)
def test_what_will_look_wrong_is_said(face, others, words):
    (caution,) = _cautions(face, others, (300, 300))
    assert words in caution


def test_a_good_portrait_is_taken_without_a_word():
    assert _cautions(face_of(yaw=20, pitch=-15), [face_of(center=(800.0, 150.0))], (1000, 300)) == []
