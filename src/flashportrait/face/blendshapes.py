"""The open expression extractor: MediaPipe's Face Landmarker, its three networks run with LiteRT."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.detector import Detection, FaceDetector
from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.face.pose import CanonicalFace
from flashportrait.face.tflite import TfliteModel

MEDIAPIPE_NAMES = ("_neutral", *sorted(BLENDSHAPE_NAMES))
"""The 52 coefficients in the order of the network's output, which is alphabetical."""
ROW_INDICES = np.array([MEDIAPIPE_NAMES.index(name) for name in BLENDSHAPE_NAMES])
"""Position in the network's output of each of ``BLENDSHAPE_NAMES``."""

CROP_SIDE = 256
"""Side of the landmark network's input in pixels."""
ROI_SCALE = 1.5
"""Side of the region given to the landmark network, in units of the face box's longer side."""
MIN_PRESENCE = 0.5
"""Below this probability the region holds no face."""
RELATIVE_PRESENCE = 0.95
"""Share of the surest face's probability that the other faces of a picture need: foliage reaches 0.9, faces 0.99."""
SURE_PRESENCE = 0.998
"""From this probability on a face is one; below, the search goes on to smaller ones: foliage and blobs, large and
blurred, reach 0.99."""
RIGHT_EYE, LEFT_EYE = 33, 263
"""Outer corners of the subject's right and left eye among the landmarks."""
# fmt: off
BLENDSHAPE_LANDMARKS = np.array([
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
])
# fmt: on
"""The 146 landmarks that the blendshape network takes."""

Search = Literal["until_found", "all", "whole"]


@dataclass(frozen=True)
class Roi:
    """A square region of a picture, turned with the face."""

    x: float
    """Centre, pixels from the left."""
    y: float
    """Centre, pixels from the top."""
    side: float
    """Pixels."""
    angle: float
    """Radians, clockwise in the picture."""


@dataclass(frozen=True)
class FaceObservation:
    """One face in one picture; pixels are the picture's, angles are signed as in docs/architecture.md."""

    landmarks: np.ndarray
    """x, y and depth (away from the viewer, in the scale of x) of 478 landmarks; pixels  float32 [478 3]"""
    score: float
    """Probability in [0, 1] that this is a face."""
    blendshapes: np.ndarray
    """The 52 ARKit coefficients in [0, 1], in the order of ``MEDIAPIPE_NAMES``  float32 [52]"""
    yaw: float
    """Radians."""
    pitch: float
    """Radians."""
    roll: float
    """Radians."""
    center: tuple[float, float]
    """Position of the head's centre; pixels."""
    size: float
    """Height of the face, hairline to chin, as if seen from the front; pixels."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the landmarks; pixels."""

    @property
    def expression(self) -> np.ndarray:
        """The coefficients of ``BLENDSHAPE_NAMES``, in row order.  float32 [51]"""
        return self.blendshapes[ROW_INDICES]

    @property
    def roi(self) -> Roi:
        """The region in which to look for this face in the next frame."""
        x0, y0, x1, y1 = self.box
        angle = _eye_angle(self.landmarks[RIGHT_EYE], self.landmarks[LEFT_EYE])
        return Roi((x0 + x1) / 2, (y0 + y1) / 2, ROI_SCALE * max(x1 - x0, y1 - y0), angle)

    def motion_row(self, center: tuple[float, float], size: float) -> np.ndarray:
        """This face as a motion row of layout ``BLENDSHAPES``, its position and scale relative to a reference face.

        ``center`` and ``size`` are the reference's, in pixels.  float32 [57]
        """
        x, y = (self.center[0] - center[0]) / size, (self.center[1] - center[1]) / size
        head_pose = [self.yaw, self.pitch, self.roll, x, y, np.log(self.size / size)]
        return np.concatenate([np.array(head_pose, dtype=np.float32), self.expression])


class FaceLandmarker:
    """Finds faces and reads their landmarks, expression and head pose. Keeps nothing between pictures.

    Not for use from several threads at once.
    """

    def __init__(self, path: str | Path | None = None, threads: int = 1) -> None:
        """Load ``face_landmarker.task`` from ``path``, or from where ``weights.hub`` finds it.

        Raises ``UserError`` when the file is missing or isn't a face landmarker task.
        """
        if path is None:
            from flashportrait.weights.hub import find_weight

            path = find_weight("face_landmarker")
        parts = _read_task(Path(path))
        self._detector = FaceDetector(TfliteModel(parts["face_detector.tflite"], threads))
        self._landmarks_model = TfliteModel(parts["face_landmarks_detector.tflite"], threads)
        self._blendshapes_model = TfliteModel(parts["face_blendshapes.tflite"], threads)
        self._canonical = CanonicalFace.from_geometry_metadata(parts["geometry_pipeline_metadata_landmarks.binarypb"])

    def detect(self, image: np.ndarray, search: Search = "until_found") -> list[FaceObservation]:
        """All faces in a uint8 RGB picture [h w 3], from left to right.

        The search stops at the first scale that shows a face for sure, so small faces beside large ones may be left
        out; it goes through ``all`` scales, at a cost, or looks at the ``whole`` picture only, which is quick. What
        looked like a face at a larger scale is dropped for a sure one at a smaller.
        """
        found: list[FaceObservation] = []
        doubtful = False
        for detections in self._detector.scan(image):
            for detection in detections:
                if any(_overlaid(detection.box, other.box) for other in found):
                    continue
                face = self.observe(image, _detection_roi(detection))
                # The landmarks' own region fits better than the detector's; a second look gives what tracking would.
                face = face and self.observe(image, face.roi)
                if face and not any(_overlaid(face.box, other.box) for other in found):
                    found.append(face)
            sure = [face for face in found if face.score >= SURE_PRESENCE]
            if search == "until_found" and sure:
                found = sure if doubtful else found
                break
            if search == "whole":
                break
            doubtful = bool(found)
        best_score = max((face.score for face in found), default=0.0)
        found = [face for face in found if face.score >= RELATIVE_PRESENCE * best_score]
        return sorted(found, key=lambda face: face.center[0])

    def observe(self, image: np.ndarray, roi: Roi) -> FaceObservation | None:
        """The face inside ``roi`` of a uint8 RGB picture [h w 3], or None if there is none."""
        crop = crop_roi(image, roi, CROP_SIDE).astype(np.float32)[None] / 255.0
        points, presence, _ = self._landmarks_model(crop)
        score = float(1.0 / (1.0 + np.exp(-np.clip(presence.item(), -100, 100))))
        if score < MIN_PRESENCE:
            return None
        landmarks = _to_picture(points.reshape(-1, 3), roi)
        blendshapes = self._blendshapes_model(np.ascontiguousarray(landmarks[None, BLENDSHAPE_LANDMARKS, :2]))[0]
        pose = self._canonical.fit(landmarks)
        (x0, y0), (x1, y1) = landmarks[:, :2].min(axis=0).tolist(), landmarks[:, :2].max(axis=0).tolist()
        return FaceObservation(
            landmarks=landmarks,
            score=score,
            blendshapes=blendshapes.reshape(-1),
            yaw=pose.yaw,
            pitch=pose.pitch,
            roll=pose.roll,
            center=pose.center,
            size=pose.size,
            box=(x0, y0, x1, y1),
        )


def crop_roi(image: np.ndarray, roi: Roi, side: int) -> np.ndarray:
    """``roi`` of a uint8 RGB picture [h w 3], turned upright and scaled; black outside the picture.  [side side 3]"""
    height, width = image.shape[:2]
    reach = roi.side * (abs(np.cos(roi.angle)) + abs(np.sin(roi.angle))) / 2 + 2
    x0, y0 = max(0, int(roi.x - reach)), max(0, int(roi.y - reach))
    x1, y1 = min(width, int(roi.x + reach) + 1), min(height, int(roi.y + reach) + 1)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((side, side, 3), dtype=np.uint8)
    part = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    # Bilinear sampling looks at four pixels; a larger step down would skip some, so average blocks first.
    step = max(1, int(roi.side / side))
    part = part.reduce(step) if step > 1 else part
    a, b = np.cos(roi.angle) * roi.side / side / step, np.sin(roi.angle) * roi.side / side / step
    center_x, center_y = (roi.x - x0) / step, (roi.y - y0) / step
    matrix = (a, -b, center_x - (a - b) * side / 2, b, a, center_y - (a + b) * side / 2)
    upright = part.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(upright)


def _to_picture(points: np.ndarray, roi: Roi) -> np.ndarray:
    """Landmarks of a crop, in its pixels [n 3], in the picture's.  float32 [n 3]"""
    scale = roi.side / CROP_SIDE
    x, y = ((points[:, :2] - CROP_SIDE / 2) * scale).T
    cos, sin = np.cos(roi.angle), np.sin(roi.angle)
    picture = np.stack([roi.x + cos * x - sin * y, roi.y + sin * x + cos * y, points[:, 2] * scale], axis=1)
    return picture.astype(np.float32)


def _detection_roi(detection: Detection) -> Roi:
    """The region around a detected face, level with its eyes."""
    x0, y0, x1, y1 = detection.box.tolist()
    angle = _eye_angle(*detection.keypoints[:2])
    return Roi((x0 + x1) / 2, (y0 + y1) / 2, ROI_SCALE * max(x1 - x0, y1 - y0), angle)


def _overlaid(box: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> bool:
    """Whether the centre of either box lies in the other: parts of a face are taken for smaller faces, at times."""

    def holds(outer: Sequence[float] | np.ndarray, inner: Sequence[float] | np.ndarray) -> bool:
        x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
        return bool(outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3])

    return holds(box, other) or holds(other, box)


def _eye_angle(right_eye: np.ndarray, left_eye: np.ndarray) -> float:
    """Angle of the line from the subject's right eye to its left eye; radians, clockwise in the picture."""
    return float(np.arctan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0]))


def _read_task(path: Path) -> dict[str, bytes]:
    """The files inside a task archive."""
    needed = "a MediaPipe face_landmarker.task"
    if not path.is_file():
        raise UserError(f"no face landmarker at {path}; give the path of {needed}")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise UserError(f"{path} isn't a task archive; give the path of {needed}") from None
    missing = {
        "face_detector.tflite",
        "face_landmarks_detector.tflite",
        "face_blendshapes.tflite",
        "geometry_pipeline_metadata_landmarks.binarypb",
    } - parts.keys()
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; give the path of {needed}")
    return parts
