"""How a model shows expressions on one portrait: tried once before a run, and made up for.

A network unsure of a feature keeps some of the portrait's own, each portrait's in its own measure: who smiles there
smiles a little when asked not to. So the driver's expressions at a few moments are made with this portrait, and what is
read on them too much or too little, on average, is taken from or added to what the network is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES, MotionFeatures

MOMENTS = 8
"""Moments of the driving clip that are tried, evenly spread; each fills one latent frame."""
FRAMES_A_MOMENT = 4
HEAD_POSE = BLENDSHAPES.head_pose
ANGLES = slice(0, 3)
"""Columns of yaw, pitch and roll; displacement and scale, the other three of the head, are 0 in the portrait."""
LEAST_SEEN = MOMENTS
"""Frames, of twice as many, that must show a face for their mean to say something."""
POSE_SHARE = 0.5
"""How far heads are turned from the portrait's own pose to the driver's: halfway, where faces are still read well."""
LIMITS = (-0.4, 0.1)
"""Least and greatest offset. A portrait's own smile can be taken back far; a feature that is shown too weakly is for
want of range, and asked for more it saturates."""


@dataclass(frozen=True)
class Trial:
    """A short clip of the driver's expressions, each held until it has settled."""

    motion: MotionFeatures
    read: tuple[int, ...]
    """Its frames at which expressions are compared."""

    @classmethod
    def of(cls, motion: MotionFeatures, portrait_row: np.ndarray | None = None) -> Trial:
        """The driver's rows at ``MOMENTS`` evenly spread frames, heads turned ``POSE_SHARE`` of the way.

        The first moment has one frame, the others four, as latent frames have; they are read at their last two, where
        they have settled.

        Args:
            motion: of the driver, in the blendshape layout.
            portrait_row: the portrait's own, [57]; None leaves heads where the driver's are.
        """
        middles = (np.arange(MOMENTS) + 0.5) / MOMENTS * (len(motion) - 1)
        rows = motion.values[np.round(middles).astype(int)]
        if portrait_row is not None:
            own = np.zeros(HEAD_POSE, np.float32)
            own[ANGLES] = portrait_row[ANGLES]
            rows[:, :HEAD_POSE] = own + POSE_SHARE * (rows[:, :HEAD_POSE] - own)
        rows = np.repeat(rows, FRAMES_A_MOMENT, axis=0)[FRAMES_A_MOMENT - 1 :]
        read = (index for index in range(len(rows)) if index % FRAMES_A_MOMENT in (FRAMES_A_MOMENT - 1, 0))
        return cls(replace(motion, values=rows, missing=()), tuple(read))

    def offsets(
        self, frames: Sequence[np.ndarray], coefficients: Sequence[str], landmarker: FaceLandmarker
    ) -> dict[str, float] | None:
        """What to add to each coefficient: its mean shortfall on ``frames`` made from this trial, within ``LIMITS``.

        Args:
            frames: uint8 RGB [h w 3], one for each row.
            coefficients: by name, of the blendshape layout.
            landmarker: what the driver was read with.

        Returns:
            None where too few of the frames show a face.
        """
        asked = self.motion.values[:, [HEAD_POSE + BLENDSHAPE_NAMES.index(name) for name in coefficients]]
        seen = [MEDIAPIPE_NAMES.index(name) for name in coefficients]
        shortfalls = []
        for index in self.read:
            if faces := landmarker.detect(frames[index]):
                face = max(faces, key=lambda face: face.size)
                shortfalls.append(asked[index] - face.blendshapes[seen])
        if len(shortfalls) < LEAST_SEEN:
            return None
        return dict(zip(coefficients, np.mean(shortfalls, axis=0).clip(*LIMITS).tolist(), strict=True))
