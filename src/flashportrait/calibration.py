"""How a model shows expressions on one portrait: tried once before a run, and made up for.

A network unsure of a feature keeps some of the portrait's own, each portrait's in its own measure: who smiles there
smiles a little when asked not to. So the driver's expressions at a few moments are made with this portrait, and what is
read on them too much or too little, on average, is taken from or added to what the network is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.face.motion import MotionFeatures

MOMENTS = 8
"""Moments of the driving clip that are tried, evenly spread; each fills one latent frame."""
FRAMES_A_MOMENT = 4
LEAST_SEEN = MOMENTS
"""Frames, of the two a moment that are read, that must show a face for their mean to say something."""


@dataclass(frozen=True)
class Trial:
    """A short clip of the driver's expressions, each held until it has settled."""

    motion: MotionFeatures
    read: tuple[int, ...]
    """Its frames at which expressions are compared."""

    @classmethod
    def of(cls, motion: MotionFeatures) -> Trial:
        """The driver's rows at ``MOMENTS`` evenly spread frames (the nearest, in a clip of fewer).

        The first moment has one frame, the others four, as latent frames have; they are read at their last two, where
        they have settled.
        """
        middles = (np.arange(MOMENTS) + 0.5) / MOMENTS * (len(motion) - 1)
        rows = np.repeat(motion.values[np.round(middles).astype(int)], FRAMES_A_MOMENT, axis=0)[FRAMES_A_MOMENT - 1 :]
        read = (index for index in range(len(rows)) if index % FRAMES_A_MOMENT in (FRAMES_A_MOMENT - 1, 0))
        return cls(replace(motion, values=rows, missing=()), tuple(read))

    def offsets(
        self, frames: Sequence[np.ndarray], limits: Mapping[str, Sequence[float]], landmarker: FaceLandmarker
    ) -> dict[str, float] | None:
        """What to add to each coefficient: its mean shortfall on ``frames`` made from this trial, within its limits.

        Args:
            frames: uint8 RGB [h w 3], one for each row.
            limits: least and greatest offset of each coefficient to calibrate, by its name.
            landmarker: what the driver was read with.

        Returns:
            None where too few of the frames show a face.
        """
        asked = self.motion.values[:, [*self.motion.columns(limits, "calibration").values()]]
        seen = [MEDIAPIPE_NAMES.index(name) for name in limits]
        shortfalls = []
        for index in self.read:
            if faces := landmarker.detect(frames[index]):
                face = max(faces, key=lambda face: face.size)
                shortfalls.append(asked[index] - face.blendshapes[seen])
        if len(shortfalls) < LEAST_SEEN:
            return None
        offsets = np.mean(shortfalls, axis=0).clip(*np.array([*limits.values()]).T)
        return dict(zip(limits, offsets.tolist(), strict=True))
