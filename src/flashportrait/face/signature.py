"""Telling one face from another within a clip: rigid shape and coarse colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flashportrait.face.blendshapes import FaceObservation, crop_roi
from flashportrait.face.pose import rotation_matrix

# fmt: off
STEADY_LANDMARKS = np.array([
    4, 6, 10, 33, 54, 67, 117, 119, 121, 127, 129, 132, 133, 136, 143, 147, 198, 205, 263, 284, 297, 346, 348, 350,
    356, 358, 361, 362, 365, 372, 376, 420, 425,
])
# fmt: on
"""Landmarks that expressions move least: brow line, eye corners, nose, cheekbones, jaw angles."""
THUMBNAIL_SIDE = 8
"""Pixels; coarse enough that expressions and moderate turns of the head leave it alone."""
SHAPE_UNIT = 0.05
COLOUR_UNIT = 0.1
"""Root mean square differences within which 9 of 10 pairs of frames of one person lie, over 14 real clips."""


@dataclass(frozen=True, eq=False)
class FaceSignature:
    """What stays of a face over a clip."""

    shape: np.ndarray
    """Steady landmarks, turned to the front, centred, of unit size  [n 3]"""
    colours: np.ndarray
    """The upright face and its surroundings, coarsely, in [0, 1]  [8 8 3]"""

    @classmethod
    def of(cls, image: np.ndarray, face: FaceObservation) -> FaceSignature:
        """Signature of a face in a uint8 RGB picture [h w 3]."""
        # The rotation's rows turn picture axes (x right, y up, z to the viewer) back into the head's own.
        points = face.landmarks[STEADY_LANDMARKS] * np.array([1, -1, -1])
        points = points @ rotation_matrix(face.yaw, face.pitch, face.roll)
        points = points - points.mean(axis=0)
        shape = points / np.sqrt(np.square(points).sum(axis=1).mean())
        return cls(shape, crop_roi(image, face.roi, THUMBNAIL_SIDE).astype(np.float32) / 255)

    def distance(self, other: FaceSignature) -> float:
        """How unlike two faces are: mostly below 2.8 for one person within a clip, above for two."""
        shape = np.sqrt(np.square(self.shape - other.shape).sum(axis=1).mean())
        colours = np.sqrt(np.square(self.colours - other.colours).mean())
        return float(shape / SHAPE_UNIT + colours / COLOUR_UNIT)

    def moved_towards(self, other: FaceSignature, share: float) -> FaceSignature:
        """A mixture with ``share`` of the other: follows slow changes of light and view."""
        return FaceSignature(
            self.shape + share * (other.shape - self.shape), self.colours + share * (other.colours - self.colours)
        )
