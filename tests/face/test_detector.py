"""The face detector's anchors, suppression and search."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.face.detector import (
    FINEST_TILE,
    Detection,
    FaceDetector,
    box_overlap,
    make_anchors,
    merge_detections,
)


class OneFace:
    """A network that sees one face, at an anchor of its choice, in every picture."""

    def __init__(self, anchor: int, inputs: list[np.ndarray]):
        self.anchor, self.inputs = anchor, inputs

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        self.inputs.append(pixels)
        regressors, logits = np.zeros((1, 896, 16), np.float32), np.full((1, 896, 1), -100, np.float32)
        regressors[0, self.anchor, 2:4] = 32
        logits[0, self.anchor] = 3
        return [regressors, logits]


def test_anchors_are_those_of_the_network():
    anchors = make_anchors()
    assert anchors.shape == (896, 2)
    np.testing.assert_allclose(anchors[:4], [[1 / 32, 1 / 32]] * 2 + [[3 / 32, 1 / 32]] * 2)
    np.testing.assert_allclose(anchors[512:519], [[1 / 16, 1 / 16]] * 6 + [[3 / 16, 1 / 16]])


def test_overlap_of_known_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], dtype=float)
    np.testing.assert_allclose(box_overlap(boxes[0], boxes), [1, 1 / 3, 0])


def test_merging_averages_by_score_and_keeps_the_best_score():
    near = [
        Detection(np.array([shift, 0, shift + 10, 10.0]), np.zeros((6, 2)), score)
        for shift, score in ((0, 0.9), (1, 0.6))
    ]
    far = Detection(np.array([50, 50, 60, 60.0]), np.zeros((6, 2)), 0.7)
    merged = merge_detections([near[1], far, near[0]])
    assert [each.score for each in merged] == [0.9, 0.7]
    np.testing.assert_allclose(merged[0].box, [0.4, 0, 10.4, 10])


def test_boxes_come_back_in_the_pixels_of_a_wide_picture():
    inputs: list[np.ndarray] = []
    (face,) = next(FaceDetector(OneFace(0, inputs)).scan(np.full((100, 200, 3), 255, np.uint8)))
    # The 200 px square around the picture starts 50 px above it; the anchor is at 1/32 of it, the face a quarter wide.
    np.testing.assert_allclose(face.box, [6.25 - 25, 6.25 - 50 - 25, 6.25 + 25, 6.25 - 50 + 25])
    assert inputs[0][0, 0, 0, 0] == -1, "outside the picture is black"
    assert inputs[0][0, 64, 64, 0] == 1


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700))
def test_search_goes_from_the_whole_picture_to_small_tiles(width, height):
    inputs: list[np.ndarray] = []
    scales = list(FaceDetector(OneFace(512, inputs)).scan(np.zeros((height, width, 3), np.uint8)))
    assert all(each.shape == (1, 128, 128, 3) for each in inputs)
    sides = [float(np.diff(faces[0].box[[0, 2]])[0]) * 4 for faces in scales]
    np.testing.assert_allclose(sides[:2], [max(width, height), 2 * max(width, height)], rtol=1e-4)
    assert sides[2:] == sorted(sides[2:], reverse=True)
    if min(width, height) >= 2 * FINEST_TILE:
        assert sides[-1] < 2 * FINEST_TILE
