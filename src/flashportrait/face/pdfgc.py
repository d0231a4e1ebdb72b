"""The released model's expression extractor: 222 landmarks, an aligned face, PD-FGC's four groups of numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import ROI_SCALE, Roi, crop_roi
from flashportrait.face.landmarks222 import (
    JAW_ENDS,
    LANDMARKS,
    Face222,
    FaceDetector222,
    FaceLandmarker222,
    eye_angle,
)
from flashportrait.face.motion import GROUP_NAMES, PDFGC, MotionFeatures, fill_gaps
from flashportrait.face.tracker import FRAMES_NAMED, JUMP, check_face_box
from flashportrait.face.warp import fit_similarity, warp_affine
from flashportrait.models.motion_encoder import CROP_SIDE, MotionEncoder

logger = logging.getLogger(__name__)

ALIGNED_LANDMARKS = (182, 202, 36, 149, 133)
"""Pupils, nose tip and mouth corners; left and right of the picture."""
ALIGNED_POSITIONS = np.array([(0.3843, 0.27), (0.62, 0.2668), (0.503, 0.4185), (0.406, 0.5273), (0.5977, 0.525)])
"""Where the alignment puts them, in units of the crop's side."""

SMOOTHED_REGIONS = (
    # landmarks, those whose motion counts, calm below, strength when just calm, strength when fast
    (slice(0, 33), slice(9, 24), 0.005, 0.05, 0.3),  # jaw line
    (slice(33, 48), slice(33, 48), 0.003, 0.03, 0.7),  # nose
    (slice(48, 74), slice(48, 74), 0.003, 0.02, 0.5),  # brows
    (slice(74, 96), slice(74, 96), 0.003, 0.03, 0.7),  # eye
    (slice(96, 118), slice(96, 118), 0.003, 0.03, 0.7),  # eye
    (slice(118, 182), slice(118, 182), 0.003, 0.05, 0.7),  # mouth
    (slice(182, 202), slice(182, 202), 0.003, 0.03, 0.7),  # pupil
    (slice(202, 222), slice(202, 222), 0.003, 0.03, 0.7),  # pupil
)
FAST = 0.02
"""Mean shift between frames, in units of the face's size, from which a region moves fast."""

THUMBNAIL_SIDE = 8
SAME_PERSON = 0.15
"""Root mean square difference of thumbnails in [0, 1] up to which a face found anywhere is the one that was lost: over
14 real clips, 95 of 100 pairs of frames of one person lie below, and 95 of 100 of two people above."""
SAME_PLACE_PERSON = 0.2
"""The same for a face that hasn't jumped, above all pairs of one person in those clips."""
THUMBNAIL_SHARE = 0.05
"""Weight of the newest frame in the running thumbnail."""


def align_face(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The aligned face that PD-FGC reads.

    Args:
        image: uint8 RGB ``[h w 3]``.
        landmarks: ``[222 2]``, x and y in pixels.

    Returns:
        float32 RGB ``[3 224 224]`` in [-1, 1].

    Raises:
        UserError: other landmarks than 222 points.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.shape != (LANDMARKS, 2):
        raise UserError(
            f"landmarks of shape {list(landmarks.shape)} found; the 14B model's extractor needs its own {LANDMARKS} "
            "points [222 2], which no open landmark model gives: get them with `flashportrait download 14b`"
        )
    matrix = fit_similarity(landmarks[list(ALIGNED_LANDMARKS)], ALIGNED_POSITIONS * CROP_SIDE)
    crop = warp_affine(image, matrix, CROP_SIDE, CROP_SIDE, "bicubic")
    return (crop.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)


class LandmarkSmoother:
    """Steadies landmarks over time, region by region, the more the calmer the region.

    A one-euro filter (Casiez et al., 2012) whose time step shrinks with the motion, as in the released code: the
    extractor's weights were trained behind it.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._speed = np.zeros((LANDMARKS, 2))

    def __call__(self, landmarks: np.ndarray, face_size: float) -> np.ndarray:
        """The next frame's landmarks, steadied; ``face_size`` in pixels.  both [222 2]"""
        landmarks = landmarks.astype(np.float64)
        if self._last is None:
            self._last = landmarks
            return landmarks
        motion = landmarks - self._last
        shift = np.linalg.norm(motion, axis=1) / face_size
        smooth = self._last.copy()
        for region, watched, calm, low, high in SMOOTHED_REGIONS:
            step = float(np.interp(shift[watched].mean(), (0, calm, FAST), (0, low, high)))
            if step == 0:
                continue
            keep = _one_euro_weight(step, 1.0)
            speed = keep * motion[region] / step + (1 - keep) * self._speed[region]
            smooth[region] += _one_euro_weight(step, 1 + step * np.abs(speed)) * motion[region]
            self._speed[region] = speed
        self._last = smooth
        return smooth


def _one_euro_weight(step: float, cutoff: float | np.ndarray) -> float | np.ndarray:
    """Weight of the newest value in a low-pass filter of this cutoff frequency."""
    rate = 2 * np.pi * cutoff * step
    return rate / (rate + 1)


@dataclass
class _Track:
    """What is known of the followed face."""

    face: Face222
    landmarks: np.ndarray
    thumbnail: np.ndarray
    face_size: float
    smoother: LandmarkSmoother = field(default_factory=LandmarkSmoother)


class LandmarkTracker:
    """Follows the 222 landmarks of one face through a clip, from the first frame that shows it."""

    def __init__(
        self,
        detector: FaceDetector222,
        landmarker: FaceLandmarker222,
        face: int | None = None,
        face_box: Sequence[float] | None = None,
    ) -> None:
        """Follow face number ``face`` (from 1, left to right), or the one inside ``face_box`` (x0, y0, x1, y1 in
        pixels); by default the largest.
        """
        self._detector = detector
        self._landmarker = landmarker
        self._face = face
        self._face_box = None if face_box is None else check_face_box(face_box)

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Each uint8 RGB frame [h w 3] with its landmarks [222 2], or None where the face isn't seen; lazily.

        Raises ``UserError`` when ``face`` is more than the faces of the first frame that shows any.
        """
        track: _Track | None = None
        for frame in frames:
            if track is None:
                track = self._start(frame)
                yield frame, None if track is None else track.landmarks
            else:
                seen = self._follow(frame, track) or self._recover(frame, track)
                yield frame, track.landmarks if seen else None

    def _start(self, frame: np.ndarray) -> _Track | None:
        """Choose the face to follow, if this frame shows it."""
        faces = self._detect(frame)
        if self._face_box is not None:
            x0, y0, x1, y1 = self._face_box
            inside = [face for face in faces if x0 <= face.center[0] <= x1 and y0 <= face.center[1] <= y1]
            chosen = max(inside, key=lambda face: face.size, default=None)
            chosen = chosen or self._landmarker.find(frame, np.array(self._face_box))
        elif self._face is not None and faces:
            if not 1 <= self._face <= len(faces):
                raise UserError(f"face {self._face} asked for, {len(faces)} there; choose from 1 to {len(faces)}")
            chosen = faces[self._face - 1]
        else:
            chosen = max(faces, key=lambda face: face.size, default=None)
        if chosen is None:
            return None
        track = _Track(chosen, chosen.landmarks, _thumbnail(frame, chosen), _smoothing_size(chosen))
        track.landmarks = track.smoother(chosen.landmarks, track.face_size)
        return track

    def _follow(self, frame: np.ndarray, track: _Track) -> bool:
        """Look where the face was; whether it is still there."""
        face = self._landmarker.find(frame, track.landmarks)
        if face is None or _jump(track.face, face) > JUMP:
            return False
        thumbnail = _thumbnail(frame, face)
        if _difference(track.thumbnail, thumbnail) > SAME_PLACE_PERSON:
            return False
        self._update(track, face, thumbnail)
        return True

    def _recover(self, frame: np.ndarray, track: _Track) -> bool:
        """Look for the lost face anywhere; whether it is there."""
        candidates = [(face, _thumbnail(frame, face)) for face in self._detect(frame)]
        if not candidates:
            return False
        face, thumbnail = min(candidates, key=lambda candidate: _difference(track.thumbnail, candidate[1]))
        limit = SAME_PERSON if _jump(track.face, face) > JUMP else SAME_PLACE_PERSON
        if _difference(track.thumbnail, thumbnail) > limit:
            return False
        track.smoother = LandmarkSmoother()
        self._update(track, face, thumbnail)
        return True

    def _update(self, track: _Track, face: Face222, thumbnail: np.ndarray) -> None:
        track.landmarks = track.smoother(face.landmarks, track.face_size)
        track.thumbnail = track.thumbnail + THUMBNAIL_SHARE * (thumbnail - track.thumbnail)
        track.face, track.face_size = face, _smoothing_size(face)

    def _detect(self, frame: np.ndarray) -> list[Face222]:
        """All faces of a frame, from left to right."""
        found = [self._landmarker.find(frame, box) for box in self._detector.detect(frame)]
        return sorted((face for face in found if face is not None), key=lambda face: face.center[0])


def _jump(before: Face222, after: Face222) -> float:
    """Change of place or scale between two faces, in units of the face's size or of log scale."""
    shift = np.linalg.norm(after.center - before.center) / before.size
    return float(max(shift, abs(np.log(after.size / before.size))))


def _smoothing_size(face: Face222) -> float:
    """Width of the jaw, made up for turning away; pixels. The released code's unit of motion."""
    first, last = face.landmarks[list(JAW_ENDS)]
    turn = np.degrees(abs(face.pitch) + 0.6 * abs(face.yaw))
    return max(float(np.linalg.norm(first - last) * (1 + turn / 18)), 1e-3)


def _thumbnail(frame: np.ndarray, face: Face222) -> np.ndarray:
    """The upright face and its surroundings, coarsely, in [0, 1].  [8 8 3]"""
    x, y = face.center.tolist()
    roi = Roi(x, y, ROI_SCALE * face.size, eye_angle(face.landmarks))
    return crop_roi(frame, roi, THUMBNAIL_SIDE).astype(np.float32) / 255


def _difference(thumbnail: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(thumbnail - other).mean()))


def load_pdfgc(
    folder: str | Path | None = None,
    face: int | None = None,
    face_box: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LandmarkTracker, MotionEncoder]:
    """The extractor's parts from ``face_det.onnx``, ``face_landmark.onnx`` and ``pd_fpg.pth``.

    Args:
        folder: where the files are; None looks where ``flashportrait download 14b`` puts them.
        face, face_box: which face to follow, as in ``LandmarkTracker``.
        device: of the motion encoder; the landmarks run on the CPU.

    Raises:
        UserError: a file or onnxruntime is missing, or a file isn't what its name says.
    """
    from flashportrait.weights.hub import WEIGHTS
    from flashportrait.weights.loading import ModelFiles

    files, paths = ModelFiles(None if folder is None else Path(folder).expanduser()), {}
    for name in ("face_det_14b", "face_landmark_14b", "pdfgc"):
        path = files.locate(name)
        if path is None or not path.is_file():
            raise UserError(
                f"{WEIGHTS[name].file} ({WEIGHTS[name].role}) isn't in {folder or 'the cache'}; the 14B model reads "
                "faces with its own landmarks, which nothing open replaces: run `flashportrait download 14b`"
            )
        paths[name] = path
    detector, landmarker = FaceDetector222(paths["face_det_14b"]), FaceLandmarker222(paths["face_landmark_14b"])
    encoder = MotionEncoder.from_official(paths["pdfgc"]).to(device)
    return LandmarkTracker(detector, landmarker, face, face_box), encoder


@torch.inference_mode()
def extract_pdfgc_motion(
    frames: Iterable[np.ndarray],
    rate: Fraction,
    tracker: LandmarkTracker,
    encoder: MotionEncoder,
    progress: Callable[[int], object] | None = None,
    batch_size: int = 16,
) -> MotionFeatures:
    """Motion of the tracked face in layout ``PDFGC``: one row per frame, frames without it interpolated.

    Args:
        frames: uint8 RGB ``[h w 3]``; at most ``batch_size`` aligned crops are held at a time.
        rate: frames per second.
        progress: called with 1 after each frame.

    Returns:
        Rows ``[t 554]``; ``missing`` lists the interpolated frames, which are also logged.

    Raises:
        UserError: there is no frame, or no frame shows the face.
    """
    rows: list[np.ndarray | None] = []
    waiting: dict[int, np.ndarray] = {}

    def encode() -> None:
        faces = torch.from_numpy(np.stack(list(waiting.values()))).to(encoder.device, encoder.dtype)
        groups = encoder(faces)
        values = torch.cat([groups[name] for name in GROUP_NAMES], dim=1).float().cpu().numpy()
        for index, row in zip(waiting, values, strict=True):
            rows[index] = row
        waiting.clear()

    for index, (frame, landmarks) in enumerate(tracker.track(frames)):
        rows.append(None)
        if landmarks is not None:
            waiting[index] = align_face(frame, landmarks)
        if len(waiting) == batch_size:
            encode()
        if progress is not None:
            progress(1)
    if waiting:
        encode()
    if not rows:
        raise UserError("no frame found in the driving video; give a video with at least one frame")
    if all(row is None for row in rows):
        raise UserError(
            f"the 14B model's face detector found no face in any of {len(rows)} frames; choose another video, or say "
            "where the face is with --face-box X0,Y0,X1,Y1"
        )
    values, missing = fill_gaps(rows)
    if missing:
        named = ", ".join(str(frame) for frame in missing[:FRAMES_NAMED]) + (", ..." if missing[FRAMES_NAMED:] else "")
        logger.warning("no face in %d of %d frames (%s); they are interpolated", len(missing), len(rows), named)
    return MotionFeatures(values, Fraction(rate), PDFGC, missing, provenance="PD-FGC")
