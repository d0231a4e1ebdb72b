"""Quality of a run, window by window, measured while the frames pass: identity, colour, seams."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation.extractors import IdentityEmbedder, read_faces
from flashportrait.evaluation.metrics import frame_change, identity_similarity, mean_lab, unexplained_seam_ratios
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.result import PortraitVideo

logger = logging.getLogger(__name__)

SAME_PERSON = 0.363
"""SFace's own threshold: a cosine above it means one person."""
COLOR_DRIFT_SEEN = 5.0
"""Colour difference (dE*ab) from the first window that anyone sees side by side."""
MEASURED_PIXELS = 256
"""Pixels a side on which colours and changes are measured; of larger pictures, every second or third pixel."""
MEASURED_FRAMES = 250
"""Likeness is measured at least once in so many frames."""
SEAM_SEEN = 2.0
"""A change this many times the usual one catches the eye."""


@dataclass
class _WindowMeasures:
    """What is kept of a window's frames ``first_frame .. stop - 1``."""

    first_frame: int
    stop: int
    colors: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """Sum of the frames' mean L*a*b* colours."""
    identity: float | None = None

    @property
    def middle(self) -> int:
        """The frame whose identity stands for the window's."""
        return (self.first_frame + self.stop) // 2

    @property
    def mean_color(self) -> np.ndarray:
        """L*a*b*  [3]"""
        return self.colors / (self.stop - self.first_frame)


class QualityMonitor:
    """Passes a video's frames on and measures them; ``video.report.quality`` is filled when the last has passed.

    Keeps one frame and a few numbers a frame. ``quality`` holds ``windows``, one entry each with ``first_frame``,
    ``identity`` (cosine to the portrait by SFace; None where not measured or no face seen), ``color_drift`` (dE*ab from
    the first window) and ``seam`` (change at the window's seams over the usual, and over the driver's where that speeds
    up there; None for the first window and where there is too little to compare), and ``worst``, the worst of each.
    """

    def __init__(self, video: PortraitVideo, *, identity: bool | None = None) -> None:
        """Watch ``video``.

        Args:
            video: before its first frame has been taken.
            identity: measure identity, which needs the extra ``eval``; if it is there, unless given.

        Raises:
            UserError: ``identity`` is asked for and can't be measured.
        """
        self._video, self._report = video, video.report
        self._seams: list[tuple[int, ...]] = []
        self._identity: _IdentityMeter | None = None
        if identity is not False:
            try:
                self._identity = _IdentityMeter(video.portrait)
            except UserError as error:
                if identity:
                    raise
                logger.info("identity is not measured: %s", error)

    def watch(self) -> Iterator[np.ndarray]:
        """The video's frames, uint8 RGB [h w 3]."""
        starts, stops = self._parts()
        windows: list[_WindowMeasures] = []
        changes: list[float] = []
        previous: np.ndarray | None = None
        for index, frame in enumerate(self._video):
            with self._report.stage("quality"):
                if len(windows) < len(starts) and index == starts[len(windows)]:
                    windows.append(_WindowMeasures(index, stops[len(windows)]))
                face = self._face(frame)
                reduced = face[:: -(-face.shape[0] // MEASURED_PIXELS), :: -(-face.shape[1] // MEASURED_PIXELS)]
                windows[-1].colors += mean_lab(reduced[None])[0]
                if previous is not None:
                    changes.append(frame_change(previous, reduced))
                if self._identity is not None and index == windows[-1].middle:
                    windows[-1].identity = self._identity(face)
                previous = reduced
            yield frame
        self._conclude(windows, changes)

    def _parts(self) -> tuple[list[int], list[int]]:
        """First frames of the parts that are measured, and where each ends: windows, and parts of long ones.

        Further parts of a window begin without a seam.
        """
        starts, seams = [], []
        firsts = [0, *(each[0] for each in self._report.seams[1:])]
        for first, stop, each in zip(firsts, [*firsts[1:], len(self._video)], self._report.seams, strict=True):
            parts = list(range(first, max(stop - MEASURED_FRAMES // 2, first + 1), MEASURED_FRAMES))
            starts += parts
            seams += [each, *([()] * (len(parts) - 1))]
        self._seams = seams
        return starts, [*starts[1:], len(self._video)]

    def _face(self, frame: np.ndarray) -> np.ndarray:
        """The part of a frame that is measured."""
        if self._video.face_area is None:
            return frame
        left, top, right, bottom = self._video.face_area
        return frame[top:bottom, left:right]

    def _conclude(self, windows: list[_WindowMeasures], changes: list[float]) -> None:
        motion = self._video.motion
        # Heads move more of the picture than their few numbers among the expression's say.
        followed = [] if motion is None else [motion.values, motion.values[:, motion.layout.slices["head_pose"]]]
        rows = [
            {
                "first_frame": window.first_frame,
                "identity": window.identity,
                "color_drift": round(float(np.linalg.norm(window.mean_color - windows[0].mean_color)), 3),
                "seam": round(float(unexplained_seam_ratios(changes, seams, followed).max()), 3) if seams else None,
            }
            for window, seams in zip(windows, self._seams, strict=True)
        ]
        worst = {
            name: choose((row[name] for row in rows if row[name] is not None), default=None)
            for name, choose in (("identity", min), ("color_drift", max), ("seam", max))
        }
        self._report.quality = {"windows": rows, "worst": worst}
        self._report.warnings.extend(_warnings(rows))


class _IdentityMeter:
    """Likeness of a frame's face to the portrait's, by SFace."""

    def __init__(self, portrait: np.ndarray) -> None:
        self._embedder, self._landmarker = IdentityEmbedder(), FaceLandmarker()
        self._reference = self._embed(portrait)

    def __call__(self, frame: np.ndarray) -> float | None:
        """Cosine in [-1, 1], or None where no face is seen."""
        try:
            return round(identity_similarity(self._embed(frame), self._reference), 4)
        except UserError:
            return None

    def _embed(self, picture: np.ndarray) -> np.ndarray:
        return self._embedder([picture], read_faces([picture], self._landmarker).points)


def quality_lines(quality: dict[str, Any]) -> list[str]:
    """A short table for people: the worst of each measure over all windows."""
    worst, count = quality["worst"], len(quality["windows"])
    shown = {
        "least likeness to the portrait (SFace cosine)": worst["identity"],
        "largest colour drift (dE from the first window)": worst["color_drift"],
        "strongest seam (change over the usual, beyond the driver's)": worst["seam"],
    }
    lines = [f"{name}: {'not measured' if value is None else f'{value:.2f}'}" for name, value in shown.items()]
    return [f"over {count} window{'s' * (count > 1)}:", *lines]


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each measure that is past its level in some window."""
    past = {
        f"the face is hardly the portrait's (likeness below {SAME_PERSON})": [
            row for row in rows if row["identity"] is not None and row["identity"] < SAME_PERSON
        ],
        f"colours have drifted by more than dE {COLOR_DRIFT_SEEN:g}": [
            row for row in rows if row["color_drift"] > COLOR_DRIFT_SEEN
        ],
        f"the picture jumps at a seam (more than {SEAM_SEEN:g} times the change to expect)": [
            row for row in rows if row["seam"] is not None and row["seam"] > SEAM_SEEN
        ],
    }
    return [
        f"{text} in {len(found)} of {len(rows)} windows, first at frame {found[0]['first_frame']}"
        for text, found in past.items()
        if found
    ]
