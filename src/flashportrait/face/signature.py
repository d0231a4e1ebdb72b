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
CONTRAST_UNIT = 0.4
"""Root mean square differences of shape, of colours and of colours of unit contrast, to weigh them alike."""


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
        """How unlike two faces are. Over 14 real clips of 14 people: at most 2.2 between a face and its running mean,
        at least 2.2 between two people.
        """
        return self._shape_distance(other) + _rms(self.colours - other.colours) / COLOUR_UNIT

    def distance_in_any_light(self, other: FaceSignature) -> float:
        """The same with brightness and contrast taken out. Over the same clips: at most 1.9 between frames."""
        difference = _unit_contrast(self.colours) - _unit_contrast(other.colours)
        return self._shape_distance(other) + _rms(difference) / CONTRAST_UNIT

    def moved_towards(self, other: FaceSignature, share: float) -> FaceSignature:
        """A mixture with ``share`` of the other: follows slow changes of light and view."""
        return FaceSignature(
            self.shape + share * (other.shape - self.shape), self.colours + share * (other.colours - self.colours)
        )

    def _shape_distance(self, other: FaceSignature) -> float:
        return float(np.sqrt(np.square(self.shape - other.shape).sum(axis=1).mean())) / SHAPE_UNIT


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _unit_contrast(colours: np.ndarray) -> np.ndarray:
    """Colours less their mean, over their standard deviation; a flat picture stays flat."""
    return (colours - colours.mean()) / max(float(colours.std()), 1e-3)
