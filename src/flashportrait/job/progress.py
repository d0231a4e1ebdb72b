"""How far a run is, told while it runs; and how it is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

UNITS = {"motion": "frames", "denoise": "steps", "decode": "frames"}
"""What is counted in a stage; others are done or not."""


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
    """Estimated for what is left of this stage; None while there is nothing to judge by."""
    part: Path | None = None
    """The hidden file as which the output grows, playable already, once it is there."""
    message: str | None = None
    """One line for the user."""
    level: Literal["note", "warning"] | None = None
    """Of the message."""


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
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None, cancel: Flag | None) -> None:
        self._on_progress, self._cancel = on_progress, cancel
        self._started = time.perf_counter()
        self._latest = Progress("load", 0, 1, "stage", 0.0)
        self._begun: dict[str, tuple[float, int]] = {}
        self._open: dict[str, Progress] = {}
        self.part: Path | None = None
        self.messages: list[str] = []
        """Warnings so far, each once."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Tell that ``done`` of ``total`` units of a stage are done.

        Raises:
            Stopped: the run was told to stop.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise Stopped
        now = time.perf_counter()
        begun, first = self._begun.setdefault(stage, (now, done))
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
        seconds = time.perf_counter() - self._started
        self._tell(
            Progress(
                last.stage, last.done, last.total, last.unit, seconds, last.seconds_left, last.part, message, level
            )
        )

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)


class _Handler(logging.Handler):
    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller, self._thread = teller, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._teller.warn(record.getMessage())
