"""Motion rows: one row of numbers per driving frame, free of pixels and of the driver's identity."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flashportrait.errors import UserError

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

TEMPLATE_FORMAT = "flashportrait-motion"
TEMPLATE_VERSION = 1

SMOOTHING = {"head_pose": (0.06, 0.03), "eyes": (0.04, 0.04), "emotion": (0.06, 0.06), "mouth": (0.03, 0.03)}
"""Per group: the reach of smoothing in seconds, and the change that counts as half jitter, half motion. The change is
in the columns' own units: radians, face sizes, log scale, coefficients."""
SMOOTHING_SHARE = 0.25
"""The same change for extractors without known units, in standard deviations of the column."""


@dataclass(frozen=True, eq=False)
class MotionFeatures:
    """The motion of one face over a clip: one row per frame. All methods return a new object."""

    values: np.ndarray
    """Rows in the columns of ``layout``  float32 [t d]"""
    rate: Fraction
    """Frames per second, exact."""
    layout: MotionLayout = BLENDSHAPES
    """The extractor's columns."""
    missing: tuple[int, ...] = ()
    """Frames in which no face was seen; their rows are interpolated."""
    provenance: str = ""
    """What the rows were made with, in words."""

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float32)
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != self.layout.width:
            raise UserError(
                f"motion of shape {list(values.shape)} found; {self.layout.name} needs [frames {self.layout.width}] "
                "with at least one frame"
            )
        if not np.isfinite(values).all():
            raise UserError("motion with values that are not finite found; extract it again")
        rate = Fraction(self.rate)
        if rate <= 0:
            raise UserError(f"a rate of {rate} frames per second found; give a rate above zero")
        if not all(0 <= frame < len(values) for frame in self.missing):
            raise UserError(f"missing frames {self.missing} found among {len(values)} frames; extract the motion again")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "missing", tuple(sorted({int(frame) for frame in self.missing})))

    def __len__(self) -> int:
        """Frames."""
        return len(self.values)

    def group(self, name: str) -> np.ndarray:
        """The columns of one of ``GROUP_NAMES``.  float32 [t width]"""
        return self.values[:, self.layout.slices[name]]

    def save(self, path: str | Path) -> None:
        """Write a motion template: a safetensors file with the rows and the rate, and nothing of the picture.

        The file appears whole or not at all. Raises ``UserError`` when it can't be written.
        """
        path = Path(path)
        metadata = {
            "format": TEMPLATE_FORMAT,
            "version": str(TEMPLATE_VERSION),
            "layout": self.layout.name,
            "rate": f"{self.rate.numerator}/{self.rate.denominator}",
            "provenance": self.provenance,
        }
        tensors = {"values": np.ascontiguousarray(self.values), "missing": np.array(self.missing, dtype=np.int64)}
        if not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} of {path.name} doesn't exist; make it or choose another")
        try:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                part = Path(folder) / path.name
                part.write_bytes(save(tensors, metadata))  # save_file gives it to its owner alone
                os.replace(part, path)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} can't be written ({reason}); choose another place") from error

    @classmethod
    def load(cls, path: str | Path) -> MotionFeatures:
        """Read a motion template. Raises ``UserError`` when the file isn't one, or a newer one."""
        path = Path(path)
        needed = "a motion template written by `flashportrait extract` is needed"
        if not path.is_file():
            raise UserError(f"no file at {path}; {needed}")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} isn't a safetensors file ({error}); {needed}") from error
        if metadata.get("format") != TEMPLATE_FORMAT or tensors.keys() != {"values", "missing"}:
            raise UserError(f"{path} holds other tensors than motion ({', '.join(sorted(tensors)[:3])}); {needed}")
        if metadata.get("version") != str(TEMPLATE_VERSION):
            raise UserError(
                f"{path} is a motion template of version {metadata.get('version')}, this program reads version "
                f"{TEMPLATE_VERSION}; install a newer flashportrait or extract the motion again"
            )
        layout = LAYOUTS.get(metadata.get("layout", ""))
        if layout is None:
            raise UserError(f"{path} has motion of layout {metadata.get('layout')!r}; one of {list(LAYOUTS)} is needed")
        try:
            rate = Fraction(metadata["rate"])
        except (KeyError, ValueError, ZeroDivisionError):
            raise UserError(
                f"{path} has the rate {metadata.get('rate')!r}; a fraction like 30000/1001 is needed"
            ) from None
        return cls(tensors["values"], rate, layout, tuple(tensors["missing"].tolist()), metadata.get("provenance", ""))

    def neutral_frame(self) -> int:
        """The frame that best serves as the driver's neutral: at rest, facing the camera, eyes open.

        For extractors whose columns have no such meaning, the frame nearest to the clip's median.
        """
        if self.layout is BLENDSHAPES:
            cost = _distance_from_neutral(self.values)
        else:
            spread = self.values.std(axis=0) + 1e-6
            cost = np.abs((self.values - np.median(self.values, axis=0)) / spread).mean(axis=1)
        if len(self.missing) < len(self):
            cost[list(self.missing)] = np.inf
        return int(np.argmin(cost))

    def with_gains(
        self, head: float = 1, eyes: float = 1, emotion: float = 1, mouth: float = 1, anchor: int | None = None
    ) -> MotionFeatures:
        """Strengthen or weaken each group's departure from the anchor frame: 1 = as in the video, 0 = still.

        ``anchor`` is ``neutral_frame()`` unless given.
        """
        gains = dict(zip(GROUP_NAMES, (head, eyes, emotion, mouth), strict=True))
        for name, gain in gains.items():
            if not (np.isfinite(gain) and gain >= 0):
                raise UserError(
                    f"a gain of {gain} for {name} found; give a number from 0 (still) up, 1 as in the video"
                )
        if all(gain == 1 for gain in gains.values()):
            return self
        anchor_row = self.values[self.neutral_frame() if anchor is None else anchor]
        column_gains = np.concatenate([np.full(self.layout.groups[name], gains[name]) for name in GROUP_NAMES])
        return self._with_values(anchor_row + column_gains * (self.values - anchor_row))

    def relative_to(self, portrait_row: np.ndarray, anchor: int | None = None) -> MotionFeatures:
        """Relative motion: the portrait's own row [d] plus each frame's departure from the anchor frame.

        ``anchor`` is ``neutral_frame()`` unless given.
        """
        portrait_row = np.asarray(portrait_row, dtype=np.float32)
        if portrait_row.shape != (self.layout.width,):
            raise UserError(
                f"a portrait row of shape {list(portrait_row.shape)} found; {self.layout.name} needs "
                f"[{self.layout.width}]"
            )
        anchor_row = self.values[self.neutral_frame() if anchor is None else anchor]
        return self._with_values(portrait_row + (self.values - anchor_row))

    def smoothed(self, strength: float = 1.0) -> MotionFeatures:
        """Take the jitter out of a tracked face without lag and without swallowing blinks; 0 leaves all as it is.

        A bilateral filter over time (Tomasi and Manduchi, 1998) on every column: neighbours count less the further they
        are in time, and the more they differ, so steps, saccades and plosives stay. The head is smoothed most; the
        blink columns are left alone.
        """
        if not (np.isfinite(strength) and strength >= 0):
            raise UserError(f"a smoothing strength of {strength} found; give a number from 0 (none) up, 1 is usual")
        if strength == 0 or len(self) < 3:
            return self
        smooth = self.values.copy()
        for name, columns in self.layout.slices.items():
            seconds, change = SMOOTHING[name]
            if self.layout is not BLENDSHAPES:
                change = SMOOTHING_SHARE * self.values[:, columns].std(axis=0) + 1e-6
            smooth[:, columns] = bilateral(self.values[:, columns], strength * seconds * float(self.rate), change)
        if self.layout is BLENDSHAPES:
            blinks = [self.layout.head_pose + BLENDSHAPE_NAMES.index(f"eyeBlink{side}") for side in ("Left", "Right")]
            smooth[:, blinks] = self.values[:, blinks]
        return replace(self, values=smooth)

    def trimmed(self, start: int, stop: int) -> MotionFeatures:
        """Frames ``start`` to ``stop`` - 1."""
        if not 0 <= start < stop <= len(self):
            raise UserError(f"frames {start} to {stop} asked of motion with {len(self)} frames; choose within them")
        missing = tuple(frame - start for frame in self.missing if start <= frame < stop)
        return replace(self, values=self.values[start:stop], missing=missing)

    def resampled(self, rate: Fraction) -> MotionFeatures:
        """The same motion at another frame rate, interpolated linearly; the duration is kept to half a frame."""
        rate = Fraction(rate)
        if rate <= 0:
            raise UserError(f"a rate of {rate} frames per second found; give a rate above zero")
        if rate == self.rate:
            return self
        count = max(1, round(len(self) * rate / self.rate))
        positions = [min(frame * self.rate / rate, Fraction(len(self) - 1)) for frame in range(count)]
        before = np.array([int(position) for position in positions])
        share = np.array([float(position % 1) for position in positions], dtype=np.float32)[:, None]
        after = np.minimum(before + 1, len(self) - 1)
        values = (1 - share) * self.values[before] + share * self.values[after]
        unseen = np.isin(before, self.missing) | (np.isin(after, self.missing) & (share[:, 0] > 0))
        return replace(self, values=values, rate=rate, missing=tuple(np.flatnonzero(unseen).tolist()))

    def _with_values(self, values: np.ndarray) -> MotionFeatures:
        """These rows in place of the old, coefficients brought back to [0, 1]."""
        values = values.astype(np.float32)
        if self.layout is BLENDSHAPES:
            coefficients = values[:, self.layout.head_pose :]
            np.clip(coefficients, 0, 1, out=coefficients)
        return replace(self, values=values)


def fill_gaps(rows: Sequence[np.ndarray | None]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Rows [d] with None where nothing was seen -> all rows [t d], and the frames that were filled.

    Gaps are interpolated linearly and held at the ends. At least one row must be there.
    """
    seen = [frame for frame, row in enumerate(rows) if row is not None]
    assert seen, "no row to fill the gaps from"
    known = np.stack([row for row in rows if row is not None])
    frames = np.arange(len(rows))
    filled = np.stack([np.interp(frames, seen, column) for column in known.T], axis=1).astype(np.float32)
    return filled, tuple(sorted(set(range(len(rows))) - set(seen)))


def bilateral(values: np.ndarray, reach: float, change: float | np.ndarray) -> np.ndarray:
    """Bilateral filter along the first axis of ``values`` [t d], zero lag.

    ``reach`` is the standard deviation in frames of the weight of time, ``change`` (one, or [d]) that of the weight of
    difference, in the values' units. At the ends only the frames that exist count.
    """
    total, weight_sum = values.astype(np.float64), np.ones(values.shape)
    for offset in range(1, min(int(np.ceil(3 * reach)), len(values) - 1) + 1):
        difference = values[offset:].astype(np.float64) - values[:-offset]
        weight = np.exp(-0.5 * (offset / reach) ** 2 - 0.5 * (difference / change) ** 2)
        total[:-offset] += weight * values[offset:]
        total[offset:] += weight * values[:-offset]
        weight_sum[:-offset] += weight
        weight_sum[offset:] += weight
    return (total / weight_sum).astype(np.float32)


def _distance_from_neutral(values: np.ndarray) -> np.ndarray:
    """How far each row [t 57] is from a neutral, frontal, open-eyed face. Radians and coefficients weigh alike.  [t]

    Pitch is measured from the clip's median: cameras are seldom level with the eyes.
    """
    head, eyes, emotion, mouth = (values[:, columns] for columns in BLENDSHAPES.slices.values())
    pitch = head[:, 1] - np.median(head[:, 1])
    turn = np.sqrt(head[:, 0] ** 2 + pitch**2 + head[:, 2] ** 2)
    blink = eyes[:, :2].mean(axis=1)
    gaze = 0.5 * eyes[:, 2:10].sum(axis=1) / 2
    jaw_open = mouth[:, MOUTH_NAMES.index("jawOpen")]
    return turn + 2 * blink + gaze + jaw_open + np.linalg.norm(emotion, axis=1) + np.linalg.norm(mouth, axis=1)
