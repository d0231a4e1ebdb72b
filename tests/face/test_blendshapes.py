"""The open extractor on real faces, and its geometry on drawn pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import (
    BLENDSHAPE_LANDMARKS,
    LEFT_EYE,
    MEDIAPIPE_NAMES,
    RIGHT_EYE,
    FaceLandmarker,
    FaceObservation,
    Roi,
    crop_roi,
)
from flashportrait.face.detector import Detection
from flashportrait.face.motion import BLENDSHAPE_NAMES


def test_names_are_in_the_networks_order():
    assert len(MEDIAPIPE_NAMES) == 52
    assert (MEDIAPIPE_NAMES[0], MEDIAPIPE_NAMES[9], MEDIAPIPE_NAMES[25]) == ("_neutral", "eyeBlinkLeft", "jawOpen")
    assert (MEDIAPIPE_NAMES[44], MEDIAPIPE_NAMES[51]) == ("mouthSmileLeft", "noseSneerRight")


def test_blendshape_landmarks_are_distinct():
    assert len(set(BLENDSHAPE_LANDMARKS.tolist())) == 146


def gradient(height: int, width: int) -> np.ndarray:
    """A picture whose red is x and green is y, in pixels."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(angle=st.floats(-3, 3), side=st.floats(20, 70), x=st.floats(60, 140), y=st.floats(60, 140))
def test_crop_samples_where_the_region_says(angle, side, x, y):
    crop = crop_roi(gradient(200, 200), Roi(x, y, side, angle), 64).astype(float)
    u, v = np.meshgrid((np.arange(64) + 0.5) / 64 - 0.5, (np.arange(64) + 0.5) / 64 - 0.5)
    expected_x = x + side * (np.cos(angle) * u - np.sin(angle) * v) - 0.5
    expected_y = y + side * (np.sin(angle) * u + np.cos(angle) * v) - 0.5
    np.testing.assert_allclose(crop[:, :, 0], expected_x, atol=1.6)
    np.testing.assert_allclose(crop[:, :, 1], expected_y, atol=1.6)


def test_crop_of_a_large_region_averages_rather_than_skips():
    checkers = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    crop = crop_roi(np.repeat(checkers[:, :, None], 3, axis=2).astype(np.uint8), Roi(512, 512, 1024, 0), 64)
    assert np.abs(crop.astype(float) - 127.5).max() < 4


def test_crop_outside_the_picture_is_black():
    white = np.full((50, 50, 3), 255, np.uint8)
    assert crop_roi(white, Roi(500, 500, 20, 0.3), 32).max() == 0
    half = crop_roi(white, Roi(0, 25, 40, 0), 32)
    assert half[:, :12].max() == 0
    assert half[:, 20:].min() == 255


def test_files_that_are_no_task_are_refused(tmp_path: Path):
    text = tmp_path / "text.task"
    text.write_text("not a task")
    with zipfile.ZipFile(tmp_path / "empty.task", "w") as archive:
        archive.writestr("readme", "")
    for path in (text, tmp_path / "empty.task", tmp_path / "absent.task"):
        with pytest.raises(UserError, match=r"face_landmarker\.task"):
            FaceLandmarker(path)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (3, 300), (255, 128)])
def test_empty_pictures_of_any_size_have_no_face(landmarker, size):
    assert landmarker.detect(np.full((*size, 3), 90, np.uint8), "all") == []


def test_a_real_face_is_read_whole(landmarker, portrait):
    image = portrait("liveportrait_s42")
    (face,) = landmarker.detect(image, "all")
    assert face.landmarks.shape == (478, 3)
    assert face.blendshapes.shape == (52,)
    assert face.blendshapes.min() >= 0
    assert face.blendshapes.max() <= 1
    assert face.expression[BLENDSHAPE_NAMES.index("jawOpen")] == face.blendshapes[25]
    assert face.score > 0.99
    assert face.size == pytest.approx(255, rel=0.1)
    assert face.landmarks[LEFT_EYE, 0] > face.landmarks[RIGHT_EYE, 0], "the subject's left eye is on the right"
    assert face.landmarks[4, 2] < face.landmarks[LEFT_EYE, 2], "the nose is nearer than the eyes"


def test_mirroring_swaps_left_and_right(landmarker, portrait):
    image = portrait("flashportrait_case1")
    (face,), (mirrored,) = landmarker.detect(image), landmarker.detect(image[:, ::-1])
    assert abs(face.yaw) > 0.2
    assert mirrored.yaw == pytest.approx(-face.yaw, abs=0.06)
    assert mirrored.roll == pytest.approx(-face.roll, abs=0.06)
    assert mirrored.pitch == pytest.approx(face.pitch, abs=0.06)
    left, right = MEDIAPIPE_NAMES.index("eyeLookOutLeft"), MEDIAPIPE_NAMES.index("eyeLookOutRight")
    assert mirrored.blendshapes[left] == pytest.approx(face.blendshapes[right], abs=0.15)


@pytest.mark.parametrize("degrees", [-60, -30, 30, 60])
def test_turning_the_picture_turns_the_head_and_nothing_else(landmarker, portrait, degrees):
    image = Image.fromarray(portrait("liveportrait_s42"))
    (face,) = landmarker.detect(np.asarray(image))
    (turned,) = landmarker.detect(np.asarray(image.rotate(-degrees)))
    assert np.degrees(turned.roll - face.roll) == pytest.approx(degrees, abs=4)
    assert turned.yaw == pytest.approx(face.yaw, abs=0.12)
    assert turned.size == pytest.approx(face.size, rel=0.04)
    assert np.abs(turned.blendshapes - face.blendshapes).max() < 0.35


@pytest.mark.parametrize("height", [20, 40, 1500])
def test_faces_of_any_size_read_alike(landmarker, portrait, height):
    image = Image.fromarray(portrait("liveportrait_s42"))
    (face,) = landmarker.detect(np.asarray(image))
    scale = height / face.size
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    (other,) = landmarker.detect(np.asarray(resized))
    assert other.size == pytest.approx(height, rel=0.04)
    np.testing.assert_allclose(other.center, np.array(face.center) * scale, atol=0.03 * height)
    assert other.yaw == pytest.approx(face.yaw, abs=0.06)


def test_a_face_of_20_px_is_found_in_a_large_picture(landmarker, portrait):
    image = Image.fromarray(portrait("liveportrait_s42"))
    canvas = Image.new("RGB", (640, 480), "#8899aa")
    canvas.paste(image.resize((40, 40), Image.Resampling.LANCZOS), (500, 300))
    (face,) = landmarker.detect(np.asarray(canvas))
    assert face.size == pytest.approx(20, rel=0.1)
    np.testing.assert_allclose(face.center, (520, 323), atol=3)


def test_a_face_that_fills_the_picture_is_found(landmarker, portrait):
    image = portrait("liveportrait_s42")
    (face,) = landmarker.detect(image)
    half = 0.45 * face.size
    x, y = face.center
    (close,) = landmarker.detect(image[int(y - half) : int(y + half), int(x - half) : int(x + half)])
    assert close.size == pytest.approx(face.size, rel=0.05)


def test_following_a_face_is_stable(landmarker, portrait):
    image = portrait("liveportrait_s1")
    (face,) = landmarker.detect(image)
    again = face
    for _ in range(5):
        again = landmarker.observe(image, again.roi)
    assert np.linalg.norm((again.landmarks - face.landmarks)[:, :2], axis=1).mean() < 0.01 * face.size


def test_motion_row_is_relative_to_its_reference(landmarker, portrait):
    (face,) = landmarker.detect(portrait("liveportrait_s42"))
    own = face.motion_row(face.center, face.size)
    np.testing.assert_allclose(own[:6], (face.yaw, face.pitch, face.roll, 0, 0, 0), atol=1e-6)
    np.testing.assert_array_equal(own[6:], face.expression)
    x, y = face.center
    other = face.motion_row((x - face.size, y + face.size), face.size / 2)
    np.testing.assert_allclose(other[3:6], (2, -2, np.log(2)), atol=1e-5)


def looked_alike(score: float, side: float) -> FaceObservation:
    """Something of that probability, ``side`` pixels high, at the picture's middle."""
    box = (100 - side / 2, 100 - side / 2, 100 + side / 2, 100 + side / 2)
    blank = np.zeros((478, 3), np.float32)
    return FaceObservation(blank, score, np.zeros(52, np.float32), 0.0, 0.0, 0.0, (100.0, 100.0), side, box)


@pytest.mark.parametrize(
    ("scales", "search", "found"),
    [
        ([[1.0], [0.999]], "until_found", [1.0]),
        ([[0.98], [0.999], [1.0]], "until_found", [0.999]),
        ([[0.98], [], []], "until_found", [0.98]),
        ([[0.98, 1.0], [1.0]], "until_found", [0.98, 1.0]),
        ([[0.98], [1.0]], "whole", [0.98]),
        ([[0.98], [1.0]], "all", [0.98, 1.0]),
    ],
)
def test_the_search_goes_on_to_smaller_faces_until_one_is_sure(landmarker, monkeypatch, scales, search, found):
    scores = [[(score, 60.0 / (1 + depth)) for score in scale] for depth, scale in enumerate(scales)]
    boxes = [
        [Detection(np.array([score, side, score, side]), np.zeros((6, 2)), score) for score, side in scale]
        for scale in scores
    ]
    monkeypatch.setattr(landmarker._detector, "scan", lambda image: iter(boxes))
    monkeypatch.setattr("flashportrait.face.blendshapes._detection_roi", lambda detection: detection.box)
    monkeypatch.setattr("flashportrait.face.blendshapes._overlaid", lambda box, other: False)
    last: list[FaceObservation] = []

    def observe(image, roi):
        """A second look, at the face's own region, gives the same."""
        if isinstance(roi, np.ndarray):
            last.append(looked_alike(float(roi[0]), float(roi[1])))
        return last[-1]

    monkeypatch.setattr(landmarker, "observe", observe)
    assert sorted(face.score for face in landmarker.detect(np.zeros((200, 200, 3), np.uint8), search)) == found
