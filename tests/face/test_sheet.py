"""The numbered contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.sheet import SHEET_SIDE, contact_sheet
from flashportrait.face.tracker import FaceTracker


@pytest.fixture(scope="module")
def group(portrait) -> np.ndarray:
    """Three people of different sizes on one canvas."""
    canvas = Image.new("RGB", (700, 400), "#8899aa")
    for name, size, place in (
        ("liveportrait_s42", (300, 300), (330, 50)),
        ("azure_Family1-Dad1", (100, 120), (20, 200)),
        ("liveportrait_s12", (60, 80), (200, 20)),
    ):
        canvas.paste(Image.fromarray(portrait(name)).resize(size, Image.Resampling.LANCZOS), place)
    return np.asarray(canvas)


def test_faces_are_numbered_from_left_to_right(landmarker, group):
    sheet, faces = contact_sheet([group], landmarker)
    assert [face["face"] for face in faces] == [1, 2, 3]
    assert [face["box"][0] // 100 for face in faces] == [0, 2, 4]
    assert all(set(face) == {"face", "frame", "box", "size", "score", "yaw", "pitch", "roll"} for face in faces)
    assert sheet.width == 700
    assert sheet.height > 400


def test_numbers_are_those_that_the_tracker_takes(landmarker, group):
    _, faces = contact_sheet([group], landmarker)
    for face in faces:
        (followed,) = FaceTracker(landmarker, face=face["face"]).track([group])
        np.testing.assert_allclose(followed.box, face["box"], atol=1)


def test_a_clip_is_read_to_its_first_face_and_no_further(landmarker, group):
    taken: list[int] = []

    def frames():
        for index, frame in enumerate([np.zeros_like(group), group, group]):
            taken.append(index)
            yield frame

    _, faces = contact_sheet(frames(), landmarker)
    assert taken == [0, 1]
    assert faces[0]["frame"] == 1


def test_large_pictures_give_a_sheet_of_readable_size(landmarker, portrait):
    sheet, _ = contact_sheet([portrait("echomimic_b")], landmarker)
    assert sheet.width <= SHEET_SIDE


def test_no_face_is_an_error(landmarker):
    with pytest.raises(UserError, match=r"2 frames.*--face-box"):
        contact_sheet([np.zeros((80, 80, 3), np.uint8)] * 2, landmarker)
