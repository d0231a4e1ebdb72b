"""A portrait that follows a face as frames of it come, drawn on its mesh: at once, without a clip to look ahead in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from flashportrait.face.blendshapes import FaceObservation

SIDE = 256
"""Pixels of the longer side of what is drawn."""


class LivePortrait:
    """Draws a whole portrait as a driver's frames come. The first face seen counts as the driver's at rest.

    The portrait keeps its own pose and expression, and takes the driver's changes from that first frame on, as with
    ``motion="relative"``; there is no smoothing, which would need frames to come.

    Args:
        portrait: a picture.
        side: pixels of the longer side of what is drawn.
        face: number of its face, from 1 at the left; the most prominent unless given.

    Raises:
        UserError: the portrait can't be read, or shows no face.
    """

    def __init__(self, portrait: str | Path, side: int = SIDE, face: int | None = None) -> None:
        import torch

        from flashportrait.face.blendshapes import FaceLandmarker
        from flashportrait.inputs import FaceChoice, Framing, frame_portrait

        framed = frame_portrait(portrait, Framing("face", resolution=side), FaceChoice(portrait=face), side)
        self._canvas, self._rig = framed.drawn_on()
        assert framed.row is not None  # drawn_on has refused that
        self._own = framed.row
        self._landmarker = FaceLandmarker(threads=min(2, torch.get_num_threads()))
        self._last: FaceObservation | None = None
        self._rest: tuple[FaceObservation, np.ndarray] | None = None

    def rest(self) -> None:
        """Take the next face seen for the driver's at rest."""
        self._rest = None

    def draw(self, frame: np.ndarray) -> np.ndarray | None:
        """The portrait as a frame has it, uint8 RGB [h w 3]; None where the frame shows no face.

        ``frame``: uint8 RGB [h w 3].
        """
        import torch

        from flashportrait.result import to_pictures

        face = self._follow(frame)
        if face is None:
            return None
        if self._rest is None:
            self._rest = face, face.motion_row(face.center, face.size)
        first, resting = self._rest
        row = self._own + face.motion_row(first.center, first.size) - resting
        row[6:] = row[6:].clip(0, 1)
        with torch.no_grad():
            drawn = self._rig.draw(torch.from_numpy(row)[None], self._canvas.size)
        return self._canvas.place(to_pictures(drawn))[0]

    def _follow(self, frame: np.ndarray) -> FaceObservation | None:
        """The face that was followed so far, or else the largest."""
        face = self._landmarker.observe(frame, self._last.roi) if self._last is not None else None
        if face is None:
            found = self._landmarker.detect(frame, "whole")
            face = max(found, key=lambda each: each.size, default=None)
        self._last = face
        return face
