"""The released model's face front end: a face detector and a network of 222 landmarks, both ONNX files.

Pictures are uint8 RGB [h w 3] here; the networks take BGR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashportrait.errors import UserError
from flashportrait.face.detector import box_overlap
from flashportrait.face.warp import invert_affine, transform_points, warp_affine

LANDMARKS = 222
LEFT_CORNER, RIGHT_CORNER = 74, 96
"""Outer corners, among the landmarks, of the eye on the left and on the right of the picture."""
JAW_ENDS = (0, 32)
"""First and last landmark of the jaw line, ear to ear."""

CROP_SIDE = 128
"""Side of the landmark network's input in pixels."""
CROP_FILL = 0.85
"""Share of that side that the face's longer extent takes."""
ITERATIONS = 3
"""Looks at the same face, each through the crop that the last one's landmarks suggest."""
MIN_SCORE = 1e-4
"""Below this probability the crop holds no face, as in the released code."""

DETECTOR_WIDTH, DETECTOR_HEIGHT = 160, 272
DETECTOR_STRIDES = (8, 16, 32)
DETECTOR_BINS = 8
"""Distances from a cell to each side of the box are the mean of a distribution over 0 .. 7 strides."""
DETECTOR_MEAN = np.array([103.53, 116.28, 123.675], dtype=np.float32)
DETECTOR_STD = np.array([57.375, 57.12, 58.395], dtype=np.float32)
"""Of the blue, green and red channel, in [0, 255]."""
DETECTOR_MIN_SCORE = 0.4
DETECTOR_OVERLAP = 0.3
"""Boxes that overlap by more than this (intersection over union) are one face."""


@dataclass(frozen=True, eq=False)
class Face222:
    """One face in one picture."""

    landmarks: np.ndarray
    """x and y of the 222 landmarks; pixels of the picture  float32 [222 2]"""
    score: float
    """Probability in [0, 1] that this is a face."""
    pitch: float
    """Radians."""
    yaw: float
    """Radians."""

    @property
    def box(self) -> np.ndarray:
        """x0, y0, x1, y1 of the landmarks; pixels  [4]"""
        return np.concatenate([self.landmarks.min(axis=0), self.landmarks.max(axis=0)])

    @property
    def center(self) -> np.ndarray:
        """Middle of the box; pixels  [2]"""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def size(self) -> float:
        """Longer side of the box, never quite zero; pixels."""
        return max(float((self.box[2:] - self.box[:2]).max()), 1e-3)


class OnnxModel:
    """An ONNX network with one input as a function from an array to arrays."""

    def __init__(self, path: str | Path, outputs: int, threads: int = 0) -> None:
        """Open ``path``, which must give ``outputs`` arrays, to run on the CPU.

        ``threads`` of 0 means as many as there are cores.

        Raises:
            UserError: onnxruntime isn't installed, or the file is missing, broken or another model.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                "the 14B model's face detector needs onnxruntime, which isn't installed; "
                "run `pip install 'flashportrait[pdfgc]'`"
            ) from error
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        path = Path(path)
        if not path.is_file():
            raise UserError(f"no file at {path}; fetch the face models with `flashportrait download 14b`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (failures.InvalidProtobuf, failures.InvalidGraph, failures.Fail) as error:
            raise UserError(f"{path} isn't a working ONNX model; fetch it again: flashportrait download 14b") from error
        found = len(self._session.get_outputs())
        if found != outputs:
            raise UserError(f"{path} is another model: it has {found} outputs, not {outputs}; give the released file")
        self._input = self._session.get_inputs()[0].name

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        """The outputs for one float32 input."""
        return self._session.run(None, {self._input: array})


class FaceDetector222:
    """The released face detector (``face_det.onnx``, a NanoDet): boxes of the faces in a picture."""

    def __init__(self, path: str | Path) -> None:
        """Raises ``UserError`` when the file or onnxruntime is missing, or it is another model."""
        self._model = OnnxModel(path, outputs=2 * len(DETECTOR_STRIDES))

    def detect(self, image: np.ndarray) -> list[np.ndarray]:
        """Boxes x0, y0, x1, y1 in pixels, best score first.  each [4]"""
        height, width = image.shape[:2]
        scale = min(DETECTOR_WIDTH / width, DETECTOR_HEIGHT / height)
        matrix = np.array(
            [
                [scale, 0, (DETECTOR_WIDTH - scale * width) / 2],
                [0, scale, (DETECTOR_HEIGHT - scale * height) / 2],
            ]
        )
        inputs = warp_affine(image, matrix, DETECTOR_WIDTH, DETECTOR_HEIGHT, "bilinear")[..., ::-1]
        inputs = ((inputs - DETECTOR_MEAN) / DETECTOR_STD).transpose(2, 0, 1)[None]
        outputs = self._model(np.ascontiguousarray(inputs, dtype=np.float32))
        levels = len(DETECTOR_STRIDES)
        boxes, scores = _decode_boxes(outputs[:levels], outputs[levels:])
        corners = transform_points(boxes.reshape(-1, 2), invert_affine(matrix))
        boxes = np.clip(corners, 0, (width, height)).reshape(-1, 4)
        return _suppress(boxes, scores)


def _decode_boxes(scores: list[np.ndarray], distances: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n 4] in the detector's pixels and their scores [n], of the cells that see a face."""
    boxes, kept = [], []
    for stride, score, distance in zip(DETECTOR_STRIDES, scores, distances, strict=True):
        columns, rows = np.meshgrid(np.arange(-(-DETECTOR_WIDTH // stride)), np.arange(-(-DETECTOR_HEIGHT // stride)))
        centers = stride * np.stack([columns.ravel(), rows.ravel()], axis=1)
        score = score.reshape(len(centers))
        logits = distance.reshape(len(centers), 4, DETECTOR_BINS)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        reach = stride * (weights @ np.arange(DETECTOR_BINS)) / weights.sum(axis=-1)
        seen = score > DETECTOR_MIN_SCORE
        boxes.append(np.concatenate([centers - reach[:, :2], centers + reach[:, 2:]], axis=1)[seen])
        kept.append(score[seen])
    return np.concatenate(boxes), np.concatenate(kept)


def _suppress(boxes: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Non-maximum suppression of boxes [n 4]: of those that overlap, the one with the best score."""
    boxes = boxes[np.argsort(-scores, kind="stable")]
    chosen = []
    while len(boxes):
        chosen.append(boxes[0])
        boxes = boxes[1:][box_overlap(boxes[0], boxes[1:]) <= DETECTOR_OVERLAP]
    return chosen


class FaceLandmarker222:
    """The released landmark network (``face_landmark.onnx``): 222 landmarks of a face whose place is roughly known."""

    def __init__(self, path: str | Path) -> None:
        """Raises ``UserError`` when the file or onnxruntime is missing, or it is another model."""
        self._model = OnnxModel(path, outputs=3)

    def find(self, image: np.ndarray, near: np.ndarray) -> Face222 | None:
        """The face near a box [4] or near earlier landmarks [222 2], or None if there is none."""
        if near.shape == (4,):
            matrix = _crop_matrix(near.reshape(2, 2), angle=0.0)
        else:
            matrix = _crop_matrix(near, eye_angle(near))
        points = turn = score = landmarks = np.empty(0)
        for _ in range(ITERATIONS):
            crop = warp_affine(image, matrix, CROP_SIDE, CROP_SIDE, "bilinear")[..., ::-1].transpose(2, 0, 1)[None]
            points, turn, score = self._model(np.ascontiguousarray(crop, dtype=np.float32) / 255)
            points = points.reshape(2, LANDMARKS).T.astype(np.float64) * CROP_SIDE
            landmarks = transform_points(points, invert_affine(matrix))
            # Each next crop is turned by the angle seen in this one, even where this one was turned already: the
            # released code does so, and the weights were trained behind it.
            matrix = _crop_matrix(landmarks, eye_angle(points))
        if float(score.ravel()[0]) < MIN_SCORE:
            return None
        pitch, yaw = map(float, turn.ravel()[:2])
        return Face222(landmarks.astype(np.float32), float(score.ravel()[0]), pitch, yaw)


def eye_angle(landmarks: np.ndarray) -> float:
    """Angle of the line between the outer eye corners; radians, clockwise in the picture."""
    x, y = landmarks[RIGHT_CORNER] - landmarks[LEFT_CORNER]
    return float(np.arctan2(y, x))


def _crop_matrix(points: np.ndarray, angle: float) -> np.ndarray:
    """The map from the picture to a crop in which ``points`` [n 2], turned back by ``angle``, are centred.  [2 3]"""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    turned = points @ turn.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = CROP_SIDE * CROP_FILL / max(float((high - low).max()), 1e-3)
    return np.column_stack([scale * turn, CROP_SIDE / 2 - scale * (low + high) / 2])
