"""A performance taken over by a face that is another at rest: by default, portraits keep what they are like then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES, MotionFeatures

RESTING_MOST = {
    "eyeBlink": 0.25,
    "eyeLook": 0.5,
    "eyeSquint": 0.7,
    "eyeWide": 0.15,
    "brow": 0.6,
    "mouth": 0.2,
    "mouthSmile": 0.1,
    "mouthFrown": 0.3,
    "mouthShrug": 0.3,
    "mouthRoll": 0.3,
    "mouthPress": 0.3,
    "mouthLeft": 0.1,
    "mouthRight": 0.1,
    "jawOpen": 0.06,
}
"""How much of a coefficient passes for a face at rest, by the longest of these that its name starts with; else 0."""
RESTING_PERCENTILE = 25
RESTING_SECONDS = 1
"""Least length of a clip that tells what its face is like at rest."""
ROOM = math.radians(8)
"""What a head at rest is left to turn by, each way."""
GAZE_A_RADIAN = (1.58, 0.80)
"""Change of the coefficients of gaze by which eyes at rest turn against a radian of yaw and of pitch of the head: four
fifths of what keeps them on the camera in photographs (``benchmarks/gaze_and_glasses.py``)."""
GAZES = (
    (("eyeLookOutLeft", "eyeLookInLeft"), ("eyeLookInRight", "eyeLookOutRight")),
    (("eyeLookUpLeft", "eyeLookDownLeft"), ("eyeLookUpRight", "eyeLookDownRight")),
)
"""By yaw and pitch, each eye's coefficients of looking to where the angle grows, and to where it falls."""


def adapted(
    motion: MotionFeatures, portrait_row: np.ndarray, reach: tuple[np.ndarray, np.ndarray] | None = None
) -> MotionFeatures:
    """The same performance by somebody whose face at rest is the portrait's.

    Faces at rest differ: one's brows are high, another's mouth turns down, and the extractor reads that as expression.
    Each coefficient is mapped so that the driver's at rest becomes the portrait's, while 0 and 1 stay what they are. Of
    the portrait, too, only what passes for a resting face counts: a smile isn't kept. The head turns as the driver's
    within ``reach``, shifted as a whole where at rest it would come nearer than ``ROOM`` to its limits. Eyes at
    rest look where the portrait's look, into the camera in most, whatever the head's turn.

    Motion of other extractors than blendshapes stays as it is, and so does a clip too short to tell.

    Args:
        motion: the driver's rows.
        portrait_row: the portrait's own, [57].
        reach: least and greatest yaw, pitch and roll that it can be turned to, [3] each, radians; any unless given.
    """
    if motion.layout is not BLENDSHAPES or len(motion) < RESTING_SECONDS * motion.rate:
        return motion
    pose, expression = slice(0, 3), slice(BLENDSHAPES.head_pose, None)
    values = motion.values.copy()
    seen = np.delete(values, motion.missing, axis=0)
    facing = np.median(seen[:, pose], axis=0)
    if reach is not None:
        held = np.clip(facing, reach[0] + ROOM, reach[1] - ROOM)
        values[:, pose] = np.clip(values[:, pose] + held - facing, *reach)
        facing = held
    rest = resting_expression(seen[:, expression])
    own = _looking(portrait_row[expression], (portrait_row[pose] - facing)[:2])
    own = np.minimum(own, _by_coefficient(RESTING_MOST))
    given = values[:, expression]
    below = given * (own / np.maximum(rest, 1e-6))
    above = own + (given - rest) * ((1 - own) / (1 - rest))
    values[:, expression] = np.where(given < rest, below, above)
    return replace(motion, values=values)


def resting_expression(seen: np.ndarray) -> np.ndarray:
    """The expression of a face that does nothing, as far as it passes for one, coefficients [51], from a clip's [t 51].

    A low percentile over the clip, at most ``RESTING_MOST``.
    """
    rest = np.percentile(seen, RESTING_PERCENTILE, axis=0).astype(np.float32)
    return np.minimum(rest, _by_coefficient(RESTING_MOST))


def _looking(expression: np.ndarray, turned_back: np.ndarray) -> np.ndarray:
    """Coefficients [51] of eyes that look where they did before the head was turned back by a yaw and a pitch [2]."""
    looking = expression.copy()
    for eyes, change in zip(GAZES, GAZE_A_RADIAN * turned_back, strict=True):
        for names in eyes:
            up, down = (BLENDSHAPE_NAMES.index(name) for name in names)
            gaze = expression[up] - expression[down] + change
            looking[up], looking[down] = max(gaze, 0.0), max(-gaze, 0.0)
    return looking


def _by_coefficient(table: Mapping[str, float]) -> np.ndarray:
    """Values for ``BLENDSHAPE_NAMES`` from a table of how their names start; the longest start counts.  float32 [51]"""

    def value(name: str) -> float:
        return table.get(max((start for start in table if name.startswith(start)), key=len, default=""), 0.0)

    return np.array([value(name) for name in BLENDSHAPE_NAMES], dtype=np.float32)
