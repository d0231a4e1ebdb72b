"""One identity followed through a clip, and turned into motion rows: one per frame, always."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import ROI_SCALE, FaceLandmarker, FaceObservation, Roi
from flashportrait.face.motion import MotionFeatures, fill_gaps
from flashportrait.face.signature import FaceSignature

logger = logging.getLogger(__name__)

SAME_PERSON = 2.3
"""Signature distance from the track's running mean up to which a face is the followed one."""
SAME_MOMENT = 1.6
"""Signature distance, in any light, up to which a face is the one seen in its place a frame before."""
JUMP = 0.5
"""Shift, in face sizes, or change of log scale between frames that a head doesn't make."""
SIGNATURE_SHARE = 0.05
"""Weight of the newest frame in the running signature."""
THOROUGH_EVERY = 25
"""While no face is seen, frames between searches at every scale; in between only the whole picture is looked at."""
FRAMES_NAMED = 5
"""How many frames an error lists."""

Box = tuple[float, float, float, float]


@dataclass
class _Track:
    """What is known of the followed face."""

    last: FaceObservation
    newest: FaceSignature
    """Signature of ``last``."""
    mean: FaceSignature
    """Running mean of the signatures."""
    others: list[FaceSignature]
    """Faces beside it when it was chosen: never to be taken for it."""

    def shows(self, face: FaceObservation, signature: FaceSignature) -> bool:
        """Whether an observation is of the followed face: much as it was a moment ago, or as it is on the whole."""
        if _jump(self.last, face) < JUMP and self.newest.distance_in_any_light(signature) < SAME_MOMENT:
            return True
        others = [other.distance(signature) for other in self.others]
        return self.mean.distance(signature) < min([SAME_PERSON, *others])


class FaceTracker:
    """Follows one face through a clip, from the first frame that shows it."""

    def __init__(self, landmarker: FaceLandmarker, face: int | None = None, face_box: Sequence[float] | None = None):
        """Follow face number ``face`` (from 1, left to right, as on the contact sheet), or the one inside ``face_box``
        (x0, y0, x1, y1 in pixels); by default the largest and most central.
        """
        self._landmarker = landmarker
        self._face = face
        self._face_box = None if face_box is None else check_face_box(face_box)

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[FaceObservation | None]:
        """The face in each uint8 RGB frame [h w 3], or None where it isn't seen; lazily, one item a frame.

        Raises ``UserError`` when ``face`` is more than the faces of the first frame that shows any.
        """
        track: _Track | None = None
        unseen = 0
        for frame in frames:
            thorough = unseen % THOROUGH_EVERY == 0
            if track is None:
                track = self._start(frame, thorough)
                observation = track.last if track else None
            else:
                observation = self._follow(frame, track) or self._recover(frame, track, thorough and unseen > 0)
            unseen = 0 if observation else unseen + 1
            yield observation

    def _start(self, frame: np.ndarray, thorough: bool) -> _Track | None:
        """Choose the face to follow, if this frame shows it."""
        chosen_by_user = self._face is not None or self._face_box is not None
        faces = self._landmarker.detect(frame, "until_found" if thorough else "whole")
        if chosen_by_user and (faces or thorough):
            # Numbers count every face, so that they are those of the contact sheet.
            faces = self._landmarker.detect(frame, "all")
        chosen = choose_face(frame, faces, self._landmarker, self._face, self._face_box)
        if chosen is None:
            return None
        others = [FaceSignature.of(frame, face) for face in faces if face is not chosen]
        signature = FaceSignature.of(frame, chosen)
        return _Track(chosen, signature, signature, others)

    def _follow(self, frame: np.ndarray, track: _Track) -> FaceObservation | None:
        """The face where it was last seen."""
        face = self._landmarker.observe(frame, track.last.roi)
        return face and self._accept(frame, track, [face])

    def _recover(self, frame: np.ndarray, track: _Track, thorough: bool) -> FaceObservation | None:
        """The face anywhere in the frame."""
        return self._accept(frame, track, self._landmarker.detect(frame, "all" if thorough else "whole"))

    def _accept(self, frame: np.ndarray, track: _Track, faces: list[FaceObservation]) -> FaceObservation | None:
        """The followed face among ``faces``, if it is there; updates the track."""
        signed = [(face, FaceSignature.of(frame, face)) for face in faces]
        likely = [(face, signature) for face, signature in signed if track.shows(face, signature)]
        if not likely:
            return None
        track.last, track.newest = min(likely, key=lambda candidate: track.mean.distance(candidate[1]))
        track.mean = track.mean.moved_towards(track.newest, SIGNATURE_SHARE)
        return track.last


def extract_motion(
    frames: Iterable[np.ndarray], rate: Fraction, tracker: FaceTracker, progress: Callable[[int], object] | None = None
) -> MotionFeatures:
    """Motion of the tracked face: one row per frame, frames without it interpolated and listed in ``missing``.

    Position and scale are relative to the clip's own median. Only rows are kept, never frames. ``progress`` is called
    with 1 after each frame. Raises ``UserError`` when there is no frame, or no frame shows the face.
    """
    seen: list[tuple[float, ...] | None] = []
    expressions: list[np.ndarray | None] = []
    for face in tracker.track(frames):
        seen.append(face and (face.yaw, face.pitch, face.roll, *face.center, face.size))
        expressions.append(face and face.expression)
        if progress is not None:
            progress(1)
    poses = np.array([pose for pose in seen if pose is not None])
    if not seen:
        raise UserError("no frame found in the driving video; give a video with at least one frame")
    if not len(poses):
        raise UserError(_no_face_message(len(seen)))
    poses[:, 2] = np.unwrap(poses[:, 2])
    center_x, center_y, size = np.median(poses[:, 3:], axis=0)
    head_poses = poses[:, :3], (poses[:, 3:5] - (center_x, center_y)) / size, np.log(poses[:, 5:] / size)
    known = iter(np.concatenate(head_poses, axis=1))
    rows = [None if expression is None else np.concatenate([next(known), expression]) for expression in expressions]
    values, missing = fill_gaps(rows)
    if missing:
        named = ", ".join(str(frame) for frame in missing[:FRAMES_NAMED]) + (", ..." if missing[FRAMES_NAMED:] else "")
        logger.warning("no face in %d of %d frames (%s); they are interpolated", len(missing), len(rows), named)
    return MotionFeatures(values, Fraction(rate), missing=missing, provenance="MediaPipe Face Landmarker")


def main_face(faces: list[FaceObservation], image: np.ndarray) -> FaceObservation | None:
    """The largest and most central face of a picture [h w 3]; None if there is none."""
    height, width = image.shape[:2]

    def prominence(face: FaceObservation) -> float:
        off_center = np.hypot(face.center[0] - width / 2, face.center[1] - height / 2) / np.hypot(width / 2, height / 2)
        return face.size * (1 - 0.5 * off_center)

    return max(faces, key=prominence, default=None)


def choose_face(
    image: np.ndarray,
    faces: list[FaceObservation],
    landmarker: FaceLandmarker,
    face: int | None = None,
    face_box: Sequence[float] | None = None,
) -> FaceObservation | None:
    """The face that the user wants in a picture [h w 3] whose ``faces`` are known; None if it isn't there.

    Raises ``UserError`` when ``face`` is more than the faces there are.
    """
    if face_box is not None:
        return _face_in_box(image, faces, landmarker, check_face_box(face_box))
    if face is None:
        return main_face(faces, image)
    if not faces:
        return None
    if not 1 <= face <= len(faces):
        count = "1 face is" if len(faces) == 1 else f"{len(faces)} faces are"
        raise UserError(f"face {face} asked for, {count} there; choose from 1 to {len(faces)} (`flashportrait faces`)")
    return faces[face - 1]


def check_face_box(face_box: Sequence[float]) -> Box:
    """Four finite numbers with x0 < x1 and y0 < y1, or ``UserError``."""
    if len(face_box) == 4 and np.isfinite(face_box).all() and face_box[0] < face_box[2] and face_box[1] < face_box[3]:
        x0, y0, x1, y1 = (float(value) for value in face_box)
        return x0, y0, x1, y1
    raise UserError(f"a face box {tuple(face_box)} found; give left, top, right and bottom in pixels: X0,Y0,X1,Y1")


def _face_in_box(
    image: np.ndarray, faces: list[FaceObservation], landmarker: FaceLandmarker, box: Box
) -> FaceObservation | None:
    """The face whose centre is in the box, the largest if several; else what the landmarks network sees there."""
    x0, y0, x1, y1 = box
    inside = [face for face in faces if x0 <= face.center[0] <= x1 and y0 <= face.center[1] <= y1]
    if inside:
        return max(inside, key=lambda face: face.size)
    side = max(x1 - x0, y1 - y0)
    for scale in (ROI_SCALE, 1.0, 2.0):
        face = landmarker.observe(image, Roi((x0 + x1) / 2, (y0 + y1) / 2, scale * side, 0.0))
        face = face and landmarker.observe(image, face.roi)
        if face is not None:
            return face
    return None


def _jump(before: FaceObservation, after: FaceObservation) -> float:
    """Change of place or scale between two observations, in units of the face's size or of log scale."""
    shift = np.hypot(after.center[0] - before.center[0], after.center[1] - before.center[1]) / before.size
    return float(max(shift, abs(np.log(after.size / before.size))))


def _no_face_message(frames: int) -> str:
    looked = ", ".join(str(frame) for frame in range(min(frames, FRAMES_NAMED))) + (", ..." * (frames > FRAMES_NAMED))
    return (
        f"no face found in any of {frames} frames (looked at {looked}); a face at least 20 px high is needed: "
        "choose another video, or say where the face is with --face-box X0,Y0,X1,Y1"
    )
