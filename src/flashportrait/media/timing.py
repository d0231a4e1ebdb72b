"""Times, rates and spans as exact rationals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from flashportrait.errors import UserError

MIN_RATE, MAX_RATE = Fraction(1), Fraction(240)


def parse_rate(text: str | float | Fraction) -> Fraction:
    """Frames per second as an exact fraction; 23.976, 29.97 and 59.94 mean their NTSC rates (n * 1000/1001).

    A fraction, as such or written with a slash, is taken at its word.

    Raises:
        UserError: not a number, or outside 1 to 240 frames per second.
    """
    try:
        rate = Fraction(str(text))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"{str(text)!r} is not a frame rate: give a number or a fraction such as 30000/1001") from error
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"a rate of {text} frames per second is outside {MIN_RATE} to {MAX_RATE}")
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    rounded = rate.denominator != 1 and "/" not in str(text)
    return ntsc if rounded and abs(rate - ntsc) < Fraction(1, 200) else rate


@dataclass(frozen=True)
class Trim:
    """A part of a clip: from `start` up to, not including, `end`, in seconds or (`in_frames`) in frames."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    """None: to the end of the clip."""
    in_frames: bool = False

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise UserError(f"the trim {self} is empty: its start must lie before its end, and neither below 0")

    def __str__(self) -> str:
        unit = "f" if self.in_frames else ""
        end = "" if self.end is None else f"{float(self.end):g}{unit}"
        return f"{float(self.start):g}{unit}:{end}"

    def frames(self, count: int, rate: Fraction) -> tuple[int, int]:
        """[first, stop) of the frames of an even-rated clip that appear within the span.

        Raises:
            UserError: there are none.
        """
        scale = 1 if self.in_frames else rate
        first = math.ceil(self.start * scale)
        stop = count if self.end is None else min(count, math.ceil(self.end * scale))
        if first >= stop:
            raise UserError(f"the trim {self} holds no frame: there are {count} at {rate} frames per second")
        return first, stop

    @classmethod
    def parse(cls, text: str) -> Trim:
        """Read ``START:END``, either left out at will: seconds (``2.5:7``), frames (``60f:180f``) or clock times.

        Clock times carry colons of their own: join them with a dash (``1:30-2:45``).

        Raises:
            UserError: not of this form, or an empty span.
        """
        separator = "-" if "-" in text else ":"
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) != 2 or not any(parts):
            raise UserError(
                f"'{text}' is not a trim: give START:END in seconds (2.5:7) or frames (60f:180f), "
                "or START-END in clock times (1:30-2:45)"
            )
        in_frames = any(part.endswith("f") for part in parts)
        if in_frames and not all(part == "" or part.endswith("f") for part in parts):
            raise UserError(f"the trim '{text}' mixes frames and seconds: use one unit on both sides")
        start, end = (_parse_position(part, text) if part else None for part in parts)
        return cls(start if start is not None else Fraction(0), end, in_frames)


def _parse_position(part: str, trim: str) -> Fraction:
    """Seconds, ``[h:]m:s`` or ``Nf`` as a number of seconds or frames."""
    if not re.fullmatch(r"\d+f|(\d+:){0,2}\d+(\.\d+)?|\.\d+", part):
        raise UserError(f"'{part}' in the trim '{trim}' is not a time: give seconds, h:m:s, or frames with an f (60f)")
    position = Fraction(0)
    for field in part.removesuffix("f").split(":"):
        position = position * 60 + Fraction(field)
    return position


def constant_rate(ticks: np.ndarray, time_base: Fraction, hints: Iterable[Fraction | None]) -> Fraction | None:
    """The exact rate whose even grid the time stamps follow, or None where the rate varies.

    A time stamp may be off its grid point by one tick, since containers round (Matroska to milliseconds), but only
    where a tick is well below half a frame.

    Args:
        ticks: [n] int64, n >= 2, rising, in units of `time_base` seconds.
        hints: rates the container states. Whole and NTSC ones among them are tried first, then those near the
            measured mean, then the rest, which demuxers often only estimate.
    """
    offsets = ticks - ticks[0]
    measured = Fraction(len(ticks) - 1, 1) / (int(offsets[-1]) * time_base)
    whole, ntsc = Fraction(round(measured)), Fraction(round(measured * 1001 / 1000) * 1000, 1001)
    stated = [rate for rate in hints if rate]
    standard = [rate for rate in stated if rate.denominator in (1, 1001)]
    indices = np.arange(len(ticks))
    for rate in (*standard, whole, ntsc, *stated, measured.limit_denominator(1001)):
        if rate <= 0:
            continue
        ticks_per_frame = 1 / (rate * time_base)
        tolerance = 1 if ticks_per_frame > 4 else 0
        grid = np.rint(indices * float(ticks_per_frame)).astype(np.int64)
        if np.abs(offsets - grid).max() <= tolerance:
            return rate
    return None
