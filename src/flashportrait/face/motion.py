"""Motion rows: one row of numbers per driving frame, free of pixels and of the driver's identity."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_POSE_NAMES = ("yaw", "pitch", "roll", "x", "y", "log_scale")
"""Columns of the head pose group of the open extractor: radians, then reference-face units, then log scale."""

EYES_NAMES = (
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
)
EMOTION_NAMES = (
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
)
MOUTH_NAMES = (
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
)
BLENDSHAPE_NAMES = EYES_NAMES + EMOTION_NAMES + MOUTH_NAMES
"""The 51 ARKit coefficients in row order; left and right are the subject's own."""

GROUP_NAMES = ("head_pose", "eyes", "emotion", "mouth")


@dataclass(frozen=True)
class MotionLayout:
    """How one extractor's motion row divides into groups, in the order ``GROUP_NAMES``."""

    name: str
    """Extractor name, as written in motion templates."""
    head_pose: int
    """Columns of the head pose group."""
    eyes: int
    """Columns of the eyes group."""
    emotion: int
    """Columns of the emotion group."""
    mouth: int
    """Columns of the mouth group."""

    @property
    def groups(self) -> dict[str, int]:
        """Width of each group, in row order."""
        return {group: getattr(self, group) for group in GROUP_NAMES}

    @property
    def slices(self) -> dict[str, slice]:
        """Columns of each group, in row order."""
        slices, start = {}, 0
        for group, width in self.groups.items():
            slices[group] = slice(start, start + width)
            start += width
        return slices

    @property
    def width(self) -> int:
        """Columns of a whole row."""
        return sum(self.groups.values())


BLENDSHAPES = MotionLayout("blendshapes", head_pose=6, eyes=14, emotion=10, mouth=27)
"""MediaPipe Face Landmarker: head pose (``HEAD_POSE_NAMES``), then ``BLENDSHAPE_NAMES``."""

PDFGC = MotionLayout("pdfgc", head_pose=6, eyes=6, emotion=30, mouth=512)
"""PD-FGC, the extractor that the released 14B weights were trained with."""

LAYOUTS = {layout.name: layout for layout in (BLENDSHAPES, PDFGC)}
