"""How far a run is, told while it runs; and how it is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

UNITS = {"motion": "frames", "denoise": "steps", "decode": "frames"}
"""What is counted in a stage; others are done or not."""
RECENT = 100
"""Steps and frames by which the time of the next ones is judged."""
PACED = ("denoise", "decode")
"""Stages that alternate, and take most of a run."""
FIRST_FRAMES = 5
"""Frames by which their time can be judged: the first latent frame holds one, others four."""


@dataclass(frozen=True)
class Progress:
    """One thing that a run tells: how far a stage is, or a message."""

    stage: str
    """``load``, ``portrait``, ``motion``, ``conditions``, ``denoise`` or ``decode``, as in the report;
    ``denoise`` and ``decode`` alternate, since frames are written as they come."""
    done: int
    """Units done, never fewer than before in the same stage."""
    total: int | None
    """Units in all, where that is known."""
    unit: str
    """``frames``, ``steps`` or ``stage``."""
    seconds: float
    """Since the run began."""
    seconds_left: float | None = None
    """Estimated; None while there is nothing to judge by. From ``denoise`` and ``decode`` on for the whole rest of the
    run, by what computed and predicted steps and frames took so far (frames count once some are written); before, for
    what is left of this stage."""
    part: Path | None = None
    """The hidden file as which the output grows, playable already, once it is there."""
    message: str | None = None
    """One line for the user."""
    level: Literal["note", "warning"] | None = None
    """Of the message."""

    @property
    def of_whole_run(self) -> bool:
        """Whether ``seconds_left`` is that of all that is left, not of the stage alone."""
        return self.stage in PACED


class Flag(Protocol):
    """What tells a run to stop: ``threading.Event`` or the like."""

    def is_set(self) -> bool:
        """Whether it should."""
        ...


class Cancelled(Exception):
    """The run stopped because it was told to; ``work`` is the folder from which it can go on."""

    def __init__(self, work: Path) -> None:
        self.work = work
        super().__init__(f"cancelled; progress is kept in '{work}'")

    def __reduce__(self) -> tuple[type[Cancelled], tuple[Path]]:
        return type(self), (self.work,)  # or else a copy in another process would be made from the text


class Stopped(Exception):
    """Unwinds a run that was told to stop."""


class Teller:
    """Turns counts and messages into ``Progress``, and stops the run where it is told to.

    Args:
        on_progress: told everything.
        cancel: looked at with every count.
        clock: seconds.
    """

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None,
        cancel: Flag | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_progress, self._cancel, self._clock = on_progress, cancel, clock
        self._started = clock()
        self._pace = Pace(self._started)
        self._latest = Progress("load", 0, 1, "stage", 0.0)
        self._begun: dict[str, tuple[float, int]] = {}
        self._open: dict[str, Progress] = {}
        self.part: Path | None = None
        self.messages: list[str] = []
        """Warnings so far, each once."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Tell that ``done`` of ``total`` units of a stage are done.

        ``passes`` are no stage: so many of the steps that are told next were computed, not predicted.

        Raises:
            Stopped: the run was told to stop.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise Stopped
        if stage == "passes":
            self._pace.passes(done, total)
            return
        now = self._clock()
        begun, first = self._begun.setdefault(stage, (now, done))
        self._pace(stage, done, total, now)
        if stage in PACED:
            left = self._pace.seconds_left()
        else:
            left = (now - begun) / (done - first) * (total - done) if total is not None and done > first else None
        part = self.part if self.part is not None and self.part.exists() else None
        unit = UNITS.get(stage, "stage")
        self._latest = Progress(stage, done, total, unit, now - self._started, left, part)
        self._open[stage] = self._latest
        self._tell(self._latest)

    def warn(self, message: str) -> None:
        """Tell a warning, once."""
        if message not in self.messages:
            self.messages.append(message)
            self._say(message, "warning")

    def note(self, message: str) -> None:
        """Tell a line of information."""
        self._say(message, "note")

    def finish(self) -> None:
        """Complete the stages that ended early, such as a resumed run's denoising."""
        for stage, last in list(self._open.items()):
            if last.total is not None and last.done < last.total:
                self(stage, last.total, last.total)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Tell our own modules' log warnings of this thread."""
        handler, logger = _Handler(self), logging.getLogger("flashportrait")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _say(self, message: str, level: Literal["note", "warning"]) -> None:
        last = self._latest
        seconds = self._clock() - self._started
        self._tell(
            Progress(
                last.stage, last.done, last.total, last.unit, seconds, last.seconds_left, last.part, message, level
            )
        )

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)


class Pace:
    """What steps and frames take, measured while they come, and so how long the rest of a run will.

    The time from one count to the next is that of the unit just counted. The first computed step isn't judged by: it
    may compile the network, and is the first to use the device.

    Args:
        now: on the clock by which it is told of counts.
    """

    def __init__(self, now: float) -> None:
        self._took = {kind: deque[float](maxlen=RECENT) for kind in ("computed", "predicted", "decode")}
        self._counts: dict[str, tuple[int, int]] = {}
        self._passes = 0
        self._planned: int | None = None
        self._begun: tuple[int, int] | None = None
        self._passes_before = 0
        self._warm = False
        self._last = now

    def passes(self, done: int, planned: int | None) -> None:
        """Steps that were computed so far, of all that will be; None where that isn't known."""
        self._passes, self._planned = done, planned

    def __call__(self, stage: str, done: int, total: int | None, now: float) -> None:
        """Take in that ``done`` of ``total`` units are done."""
        took, self._last = now - self._last, now
        if stage not in PACED or total is None:
            return
        before = self._counts.get(stage, (0, 0))[0]
        first, self._counts[stage] = stage not in self._counts, (done, total)
        computed = self._passes > self._passes_before
        if stage == "denoise":
            self._passes_before = self._passes
            self._begun = self._begun or (done, self._passes)
            if first:  # nothing was done yet, or by another run
                return
        if done != before + 1:
            return
        if stage == "denoise" and computed and not self._warm:
            self._warm = True
            return
        self._took[stage if stage == "decode" else "computed" if computed else "predicted"].append(took)

    def seconds_left(self) -> float | None:
        """Of the run; None while no step that counts has been computed."""
        steps, frames = (total - done for done, total in (self._counts.get(stage, (0, 0)) for stage in PACED))
        passes = self._passes_left(steps)
        if (passes and not self._took["computed"]) or (not steps and frames and not self._judged_frames):
            return None
        counts = {"computed": passes, "predicted": steps - passes, "decode": frames if self._judged_frames else 0}
        return sum(count * _mean(self._took[kind]) for kind, count in counts.items())

    @property
    def _judged_frames(self) -> bool:
        return self._counts.get("decode", (0, 0))[0] >= FIRST_FRAMES and bool(self._took["decode"])

    def _passes_left(self, steps: int) -> int:
        """Of ``steps`` that are left, those to be computed; where that isn't planned, by their share so far."""
        if self._planned is not None:
            return min(steps, max(0, self._planned - self._passes))
        done, _ = self._counts.get("denoise", (0, 0))
        begun, computed = self._begun or (0, 0)
        return steps if done == begun else round(steps * (self._passes - computed) / (done - begun))


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class _Handler(logging.Handler):
    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller, self._thread = teller, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._teller.warn(record.getMessage())
