"""Runs entries of the history, one a device, in the order in which they came."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe, connection
from pathlib import Path

from flashportrait.errors import UserError
from flashportrait.job import Progress
from flashportrait.studio.history import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPTED,
    OPEN,
    RUNNING,
    WAITING,
    Entry,
    History,
)
from flashportrait.studio.rates import Rates
from flashportrait.workers import Ended, WorkerProcess

LOOK_SECONDS = 0.1
"""Time between two looks at workers that are to stop."""
CANCEL_SECONDS = 0.8
"""How long a job may take to stop by itself; it is killed then, and its work stays."""
IDLE_SECONDS = 600.0
"""After which a process without a job ends, and its memory is free."""


@dataclass(frozen=True)
class Status:
    """How far an entry is, for whoever looks at it."""

    state: str
    place: int = 0
    """In the queue, from 1; 0 when it isn't waiting."""
    stage: str = "load"
    done: int = 0
    total: int | None = None
    unit: str = "stage"
    frames: tuple[int, int] | None = None
    """Frames of the result that are written, and all."""
    seconds: float = 0.0
    """Since it was started."""
    seconds_left: float | None = None
    part: Path | None = None
    """The growing file, playable."""
    warnings: tuple[str, ...] = ()
    error: str | None = None
    stopping: bool = False


@dataclass
class _Running:
    entry: Entry
    status: Status
    started: float = field(default_factory=time.monotonic)


class Runner:
    """A queue of entries and the processes that run them.

    Args:
        history: where the entries are.
        workers: a process for each device.
        rates: told how long jobs took.
    """

    def __init__(self, history: History, workers: Sequence[WorkerProcess], rates: Rates) -> None:
        self._history, self._workers, self._rates = history, list(workers), rates
        self._running: list[_Running | None] = [None] * len(self._workers)
        self._idle_since = [time.monotonic()] * len(self._workers)
        self._waiting: list[str] = []
        self._lock = threading.RLock()
        self._let_go: set[int] = set()
        self._ours, self._theirs = Pipe()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="studio-runner", daemon=True)

    def start(self) -> None:
        """Begin to run what is submitted."""
        self._thread.start()

    def submit(self, name: str) -> None:
        """Put an entry at the queue's end; what it has got to before counts.

        Raises:
            UserError: there is no such entry.
        """
        with self._lock:
            entry = self._history.get(name)
            if entry is None:
                raise UserError("this animation is no longer in the history: start it anew")
            if entry.id in self._waiting or self._of(name) is not None or entry.state == DONE:
                return
            self._waiting.append(entry.id)
            self._history.mark(entry.id, WAITING)
        self._wake()

    def cancel(self, name: str) -> None:
        """Stop an entry, or take it out of the queue; its work stays."""
        with self._lock:
            if name in self._waiting:
                self._waiting.remove(name)
                self._history.mark(name, CANCELLED)
            elif (running := self._of(name)) is not None:
                running.status = replace(running.status, stopping=True)
        self._wake()

    def status(self, name: str) -> Status | None:
        """How far an entry is; None where there is none of this name."""
        with self._lock:
            if (running := self._of(name)) is not None:
                return replace(running.status, seconds=time.monotonic() - running.started)
            if name in self._waiting:
                return Status(WAITING, place=self._waiting.index(name) + 1)
        entry = self._history.get(name)
        if entry is None:
            return None
        warnings = tuple(entry.summary["warnings"]) if entry.summary else ()
        return Status(entry.state, error=entry.error, warnings=warnings)

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return any(running is not None for running in self._running)

    def close(self) -> None:
        """Stop all that runs, keeping its work, and end the processes."""
        with self._lock:
            self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()

    def _of(self, name: str) -> _Running | None:
        return next((each for each in self._running if each is not None and each.entry.id == name), None)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._theirs.send_bytes(b"")

    def _loop(self) -> None:
        stopped_at: dict[int, float] = {}
        while True:
            stopping = self._closing or any(each is not None and each.status.stopping for each in self._running)
            pipes = [worker.connection for worker in self._workers if worker.busy and worker.connection is not None]
            ready = connection.wait([*pipes, self._ours], LOOK_SECONDS if stopping else 1.0)
            if self._ours in ready:
                while self._ours.poll():
                    self._ours.recv_bytes()
            for number, worker in enumerate(self._workers):
                with self._lock:
                    for news in worker.poll():
                        self._hear(number, news)
                    running = self._running[number]
                    if running is None:
                        stopped_at.pop(number, None)
                    elif (running.status.stopping or self._closing) and number not in stopped_at:
                        stopped_at[number] = time.monotonic()
                        worker.cancel(CANCEL_SECONDS)
            if self._closing and not self.busy:
                break
            while self._let_go:  # before anything new is handed to them
                self._workers[self._let_go.pop()].close()
            if not self._closing:
                self._assign()
        for worker in self._workers:
            worker.close()

    def _assign(self) -> None:
        """Give free workers what is next."""
        for number, worker in enumerate(self._workers):
            with self._lock:
                if self._running[number] is not None:
                    continue
                if not self._waiting:
                    if worker.pid is not None and time.monotonic() - self._idle_since[number] > IDLE_SECONDS:
                        self._let_go.add(number)
                    continue
                entry = self._history.get(self._waiting.pop(0))
                if entry is None:
                    continue
                self._running[number] = _Running(entry, Status(RUNNING))
                self._history.mark(entry.id, RUNNING)
            try:
                worker.start(entry.job(), resume=True)
            except UserError as error:
                with self._lock:
                    self._end(number, Ended("failed", str(error)))

    def _hear(self, number: int, news: Progress | Ended) -> None:
        running = self._running[number]
        if running is None:
            return
        if isinstance(news, Ended):
            self._end(number, news)
            return
        status = running.status
        if news.message is not None:
            if news.level == "warning":
                line = readable(news.message, running.entry)
                running.status = replace(status, warnings=(*status.warnings, line))
            return
        frames = (news.done, news.total) if news.stage == "decode" and news.total is not None else status.frames
        running.status = replace(
            status,
            stage=news.stage,
            done=news.done,
            total=news.total,
            unit=news.unit,
            frames=frames,
            seconds_left=news.seconds_left,
            part=news.part or status.part,
        )

    def _end(self, number: int, ended: Ended) -> None:
        running = self._running[number]
        assert running is not None
        entry, self._running[number] = running.entry, None
        self._idle_since[number] = time.monotonic()
        error = readable(ended.error, entry) if ended.error else None
        if ended.status == "done" and ended.summary is not None:
            lines = [readable(line, entry) for line in ended.summary["warnings"]]
            self._history.mark(entry.id, DONE, summary={**ended.summary, "warnings": lines})
            with contextlib.suppress(OSError):
                self._rates.note(entry.settings, ended.summary)
        elif ended.status == "cancelled":
            self._history.mark(entry.id, INTERRUPTED if self._closing else CANCELLED)
            if not self._waiting:
                self._let_go.add(number)
        else:
            self._history.mark(entry.id, FAILED, error=error)


def readable(line: str, entry: Entry) -> str:
    """A message of a run with the names that its files had for who brought them."""
    for role, file in (("portrait", entry.portrait), ("driver", entry.driver)):
        line = line.replace(str(entry.folder / file), entry.names.get(role, file))
    return line.replace(f"{entry.folder}/", "")


def resumable(history: History) -> list[Entry]:
    """Entries that ended without a result, the newest first."""
    return [entry for entry in history.entries() if entry.can_resume and entry.state not in OPEN]


def count_gpus() -> int:
    """NVIDIA GPUs that may be used, without loading anything; 0 where there is none."""
    import os

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
