"""The released extractor on pictures and toy ONNX networks whose right answer is known.

A toy face is a red and a blue disc, its eyes. The toy landmark network measures the discs' centres and places 222
landmarks around them; the toy detector sees where the picture is bright.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.face import pdfgc
from flashportrait.face.landmarks222 import LANDMARKS, FaceDetector222, FaceLandmarker222
from flashportrait.face.pdfgc import (
    ALIGNED_LANDMARKS,
    ALIGNED_POSITIONS,
    LandmarkSmoother,
    LandmarkTracker,
    align_face,
    extract_pdfgc_motion,
    load_pdfgc,
)
from flashportrait.face.warp import transform_points
from flashportrait.models.motion_encoder import MotionEncoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEIGHT, WIDTH = 240, 320
TEMPLATE = np.random.default_rng(0).uniform(-0.9, 0.9, (LANDMARKS, 2))
"""Landmarks in units of the distance between the eyes: along the line of the eyes, and across it."""
TEMPLATE[74], TEMPLATE[96] = (-0.6, 0.0), (0.6, 0.0)
TEMPLATE[list(ALIGNED_LANDMARKS)] = (ALIGNED_POSITIONS - (0.5, 0.27)) / 0.24


def draw_face(x: float, y: float, eyes: float = 40, angle: float = 0.0, background: int = 0) -> np.ndarray:
    """A toy face whose eyes, ``eyes`` pixels apart, have their middle at (x, y).  uint8 RGB [240 320 3]"""
    image = np.full((HEIGHT, WIDTH, 3), background, dtype=np.uint8)
    return add_face(image, x, y, eyes, angle)


def add_face(image: np.ndarray, x: float, y: float, eyes: float = 40, angle: float = 0.0) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for side, channel in ((-0.5, 0), (0.5, 2)):
        distance = np.hypot(columns - x - side * eyes * np.cos(angle), rows - y - side * eyes * np.sin(angle))
        disc = np.clip(0.4 * eyes - distance, 0, 1)
        image[..., channel] = np.maximum(image[..., channel], (255 * disc).astype(np.uint8))
    return image


def expected_landmarks(x: float, y: float, eyes: float = 40, angle: float = 0.0) -> np.ndarray:
    cos, sin = eyes * np.cos(angle), eyes * np.sin(angle)
    return transform_points(TEMPLATE, np.array([[cos, -sin, x], [sin, cos, y]]))


def save_model(path: Path, nodes: list, constants: dict[str, np.ndarray], shape: list[int], outputs: list[str]) -> Path:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", float32, shape)],
        [helper.make_tensor_value_info(name, float32, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def make_landmarker(path: Path) -> Path:
    """Landmarks [1 444] (all x, then all y, in units of the crop), angles [1 3], probability [1 1]."""
    node = onnx.helper.make_node
    columns, rows = np.meshgrid(np.arange(128), np.arange(128))
    # Moments of each channel: mass, and mass times x and y; a little mass keeps empty crops finite.
    weights = np.stack([np.ones((128, 128)), columns, rows], axis=-1).reshape(-1, 3).astype(np.float32)
    a, b = TEMPLATE.T.astype(np.float32)
    constants = {
        "flat": np.array([1, 3, -1], dtype=np.int64),
        "weights": weights,
        "tiny": np.array(1e-3, dtype=np.float32),
        "mass_index": np.array([0], dtype=np.int64),
        "place_index": np.array([1, 2], dtype=np.int64),
        "blue": np.array([0], dtype=np.int64),
        "red": np.array([2], dtype=np.int64),
        # Of the line of the eyes (u, v): x of landmark (a, b) is u a - v b, y is v a + u b.
        "spread": np.stack([np.concatenate([a, b]), np.concatenate([-b, a])]),
        "to_x_and_y": np.repeat(np.eye(2), LANDMARKS, axis=1).astype(np.float32),
        "half": np.array(0.5, dtype=np.float32),
        "side": np.array(128, dtype=np.float32),
        "angles": np.array([[0.1, 0.2, 0.3]], dtype=np.float32),
        "enough": np.array(50, dtype=np.float32),
        "low": np.array(0, dtype=np.float32),
        "high": np.array(1, dtype=np.float32),
    }
    nodes = [
        node("Reshape", ["image", "flat"], ["channels"]),
        node("MatMul", ["channels", "weights"], ["moments"]),
        node("Gather", ["moments", "mass_index"], ["mass"], axis=2),
        node("Gather", ["moments", "place_index"], ["firsts"], axis=2),
        node("Add", ["mass", "tiny"], ["some_mass"]),
        node("Div", ["firsts", "some_mass"], ["places"]),
        node("Gather", ["places", "blue"], ["blue_place"], axis=1),
        node("Gather", ["places", "red"], ["red_place"], axis=1),
        node("Sub", ["blue_place", "red_place"], ["line"]),
        node("Add", ["blue_place", "red_place"], ["both"]),
        node("Mul", ["both", "half"], ["middle"]),
        node("MatMul", ["line", "spread"], ["offsets"]),
        node("MatMul", ["middle", "to_x_and_y"], ["middles"]),
        node("Add", ["offsets", "middles"], ["pixels"]),
        node("Div", ["pixels", "side"], ["landmarks"]),
        node("Identity", ["angles"], ["euler"]),
        node("Gather", ["mass", "blue"], ["blue_mass"], axis=1),
        node("Div", ["blue_mass", "enough"], ["share"]),
        node("Clip", ["share", "low", "high"], ["probability"]),
    ]
    return save_model(path, nodes, constants, [1, 3, 128, 128], ["landmarks", "euler", "probability"])


def make_detector(path: Path, box_reach: int = 3) -> Path:
    """Scores and box distributions at strides 8, 16 and 32; only stride 8 looks: where blue is bright."""
    node = onnx.helper.make_node
    cells = {8: 34 * 20, 16: 17 * 10, 32: 9 * 5}
    logits = np.full((1, 4, 8), -40, dtype=np.float32)
    logits[:, :, box_reach] = 0
    constants = {
        "blue": np.array([0], dtype=np.int64),
        "as_cells": np.array([1, -1, 1], dtype=np.int64),
        "scale": np.array(57.375 / 255, dtype=np.float32),
        "shift": np.array(103.53 / 255, dtype=np.float32),
        **{f"score{stride}": np.zeros((1, cells[stride], 1), dtype=np.float32) for stride in (16, 32)},
        **{f"box{stride}": np.tile(logits.reshape(1, 1, 32), (1, cells[stride], 1)) for stride in (8, 16, 32)},
    }
    nodes = [
        node("Gather", ["image", "blue"], ["normalized"], axis=1),
        node("Mul", ["normalized", "scale"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["brightness"]),
        node("AveragePool", ["brightness"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Reshape", ["cells", "as_cells"], ["scores"]),
    ]
    outputs = ["scores"]
    for stride in (16, 32):
        nodes.append(node("Identity", [f"score{stride}"], [f"score_out{stride}"]))
        outputs.append(f"score_out{stride}")
    for stride in (8, 16, 32):
        nodes.append(node("Identity", [f"box{stride}"], [f"box_out{stride}"]))
        outputs.append(f"box_out{stride}")
    return save_model(path, nodes, constants, [1, 3, 272, 160], outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files under their released names."""
    folder = tmp_path_factory.mktemp("pdfgc")
    make_detector(folder / "face_det.onnx")
    make_landmarker(folder / "face_landmark.onnx")
    torch.manual_seed(0)
    torch.save(MotionEncoder().state_dict(), folder / "pd_fpg.pth")
    return folder


def make_tracker(folder: Path, **choice) -> LandmarkTracker:
    detector = FaceDetector222(folder / "face_det.onnx")
    return LandmarkTracker(detector, FaceLandmarker222(folder / "face_landmark.onnx"), **choice)


def found_center(landmarks: np.ndarray) -> np.ndarray:
    """The middle of the eyes from found landmarks."""
    return (landmarks[74] + landmarks[96]) / 2


def test_alignment_puts_the_five_landmarks_where_they_belong():
    """On a picture whose colours are its coordinates, the crop's colours say which pixel came where."""
    rows, columns = np.mgrid[:400, :400].astype(np.float32)
    image = np.stack([columns / 2, rows / 2, (columns + rows) / 4], axis=-1).round().astype(np.uint8)
    target = ALIGNED_POSITIONS * 224
    landmarks = np.zeros((LANDMARKS, 2))
    angle, scale = 0.3, 0.6
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks[list(ALIGNED_LANDMARKS)] = target @ turn.T + (150, 120)
    face = align_face(image, landmarks)
    assert face.shape == (3, 224, 224)
    assert face.dtype == np.float32
    for x, y in [(86, 60), (139, 60), (113, 94), (20, 200), (200, 30)]:
        source_x, source_y = turn @ (x, y) + (150, 120)
        expected = np.array([source_x / 2, source_y / 2, (source_x + source_y) / 4]) / 127.5 - 1
        assert np.abs(face[:, y, x] - expected).max() < 1.1 / 127.5


def test_other_landmarks_are_refused():
    with pytest.raises(UserError, match=r"flashportrait download 14b"):
        align_face(np.zeros((10, 10, 3), dtype=np.uint8), np.zeros((478, 2)))


@pytest.mark.parametrize(
    "place", [(160, 120, 40, 0.0), (70, 60, 30, 0.0), (230.5, 170.2, 52, 0.35), (150, 120, 36, -0.5)]
)
def test_landmarks_come_back_in_the_picture(folder: Path, place: tuple[float, float, float, float]):
    """Crops, their turning and the way back: the network's answer is exact in any crop that holds the whole face."""
    x, y, eyes, _ = place
    landmarker = FaceLandmarker222(folder / "face_landmark.onnx")
    box = np.array([x - 1.5 * eyes, y - 1.4 * eyes, x + 1.3 * eyes, y + 1.6 * eyes])
    face = landmarker.find(draw_face(*place), box)
    assert face is not None
    assert np.abs(face.landmarks - expected_landmarks(*place)).max() < 0.02 * eyes
    again = landmarker.find(draw_face(*place), face.landmarks)
    assert np.abs(again.landmarks - expected_landmarks(*place)).max() < 0.02 * eyes
    assert (face.pitch, face.yaw) == pytest.approx((0.1, 0.2))


def test_no_face_is_found_in_the_dark(folder: Path):
    landmarker = FaceLandmarker222(folder / "face_landmark.onnx")
    assert landmarker.find(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8), np.array([10.0, 10, 90, 90])) is None


def test_boxes_come_back_in_the_picture(folder: Path):
    """The detector's picture is half as large and lies in the middle of a 160x272 canvas."""
    (box,) = FaceDetector222(folder / "face_det.onnx").detect(draw_face(160, 120))
    # The blue disc is at (180, 120), in the canvas at (90, 136); boxes reach 3 cells of 8 canvas pixels.
    assert np.abs(box - (180 - 48, 120 - 48, 180 + 48, 120 + 48)).max() <= 24
    assert box[2] - box[0] == pytest.approx(96)
    assert FaceDetector222(folder / "face_det.onnx").detect(np.zeros((50, 90, 3), dtype=np.uint8)) == []


def test_a_face_is_followed_and_missed(folder: Path):
    places = [(100 + 4 * frame, 120) for frame in range(10)]
    frames = [draw_face(*place) for place in places]
    frames[4] = np.zeros_like(frames[4])
    tracked = list(make_tracker(folder).track(frames))
    assert [landmarks is None for _, landmarks in tracked] == [frame == 4 for frame in range(10)]
    for (x, y), (_, landmarks) in zip(places, tracked, strict=True):
        if landmarks is not None:
            assert np.linalg.norm(found_center(landmarks) - (x, y)) < 4  # steadying lags by less than one frame


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, 240),  # the largest
        ({"face": 1}, 70),
        ({"face": 2}, 240),
        ({"face_box": (40, 80, 100, 160)}, 70),
    ],
)
def test_the_chosen_face_is_followed(folder: Path, choice: dict, expected: float):
    frame = add_face(draw_face(70, 120, 36), 240, 120, 44)
    for _, landmarks in make_tracker(folder, **choice).track([frame] * 2):
        assert found_center(landmarks)[0] == pytest.approx(expected, abs=1)


def test_a_face_that_is_not_there_is_refused(folder: Path):
    with pytest.raises(UserError, match="face 3 asked for, 1 there"):
        next(make_tracker(folder, face=3).track([draw_face(160, 120)]))


def test_another_person_is_not_taken_for_the_lost_one(folder: Path):
    bright_room = draw_face(240, 60, background=150)
    tracked = list(make_tracker(folder).track([draw_face(80, 160), bright_room, draw_face(200, 60)]))
    assert tracked[1][1] is None
    assert found_center(tracked[2][1])[0] == pytest.approx(200, abs=1)


def test_smoothing_holds_a_trembling_face_and_lets_a_fast_one_go():
    generator = np.random.default_rng(0)
    still = expected_landmarks(160, 120)
    smoother = LandmarkSmoother()
    trembling = [smoother(still + generator.normal(0, 0.05, still.shape), face_size=100.0) for _ in range(60)]
    tremor = np.std(trembling[20:], axis=0).mean()
    assert tremor < 0.3 * 0.05
    assert np.array_equal(smoother(trembling[-1], face_size=100.0), trembling[-1])  # no motion at all
    moved = smoother(trembling[-1] + 30, face_size=100.0) - trembling[-1]
    assert moved.min() > 0.65 * 30


@torch.no_grad()
def test_rows_are_the_encoder_on_the_aligned_faces(folder: Path, caplog: pytest.LogCaptureFixture):
    frames = [draw_face(100 + 3 * frame, 110 + 2 * frame) for frame in range(4)]
    frames[1] = np.zeros_like(frames[1])
    tracker, encoder = load_pdfgc(folder)
    ticks: list[int] = []
    motion = extract_pdfgc_motion(frames, Fraction(25), tracker, encoder, ticks.append, batch_size=2)
    assert ticks == [1] * 4
    assert motion.layout is pdfgc.PDFGC
    assert motion.values.shape == (4, 554)
    assert motion.missing == (1,)
    assert "no face in 1 of 4 frames (1)" in caplog.text
    seen = [pair for pair in make_tracker(folder).track(frames) if pair[1] is not None]
    groups = encoder(torch.from_numpy(np.stack([align_face(frame, landmarks) for frame, landmarks in seen])))
    rows = torch.cat([groups[name] for name in ("head_pose", "eyes", "emotion", "mouth")], dim=1).numpy()
    np.testing.assert_allclose(motion.values[[0, 2, 3]], rows, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(motion.values[1], (rows[0] + rows[1]) / 2, rtol=1e-3, atol=1e-5)


def test_a_clip_without_a_face_is_refused(folder: Path):
    tracker, encoder = load_pdfgc(folder)
    dark = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="no face in any of 2 frames"):
        extract_pdfgc_motion([dark, dark], Fraction(25), tracker, encoder)
    with pytest.raises(UserError, match="no frame"):
        extract_pdfgc_motion([], Fraction(25), tracker, encoder)


def test_missing_files_are_named(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"face_det\.onnx .*flashportrait download 14b"):
        load_pdfgc(tmp_path)
    (tmp_path / "face_det.onnx").write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"face_det\.onnx isn't a working ONNX model"):
        FaceDetector222(tmp_path / "face_det.onnx")
    with pytest.raises(UserError, match="has 3 outputs, not 6"):
        FaceDetector222(folder / "face_landmark.onnx")
