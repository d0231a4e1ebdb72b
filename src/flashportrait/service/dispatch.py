"""Has queued jobs run by worker processes, and knows how far they are."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from flashportrait.job import Job, Progress
from flashportrait.service.fleets import Fleet
from flashportrait.service.settings import ServiceSettings
from flashportrait.service.store import Entry, Store
from flashportrait.workers import Ended, WholeRun

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
"""How long the thread waits for workers before it looks for jobs on its own."""
STOP_SECONDS = 30.0
"""How long running jobs may take to reach a point from which they can go on, when the server ends."""
CANCEL_SECONDS = 1.0
KEPT_MESSAGES = 100


@dataclass
class Live:
    """How far a running job is."""

    stage: str = "load"
    done: int = 0
    total: int | None = None
    unit: str = "stage"
    part: Path | None = None
    """The growing result, playable already, once it is there."""
    whole: WholeRun = field(default_factory=WholeRun)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_MESSAGES))

    def take(self, progress: Progress) -> None:
        """Take in what the run tells."""
        if progress.message is not None:
            if progress.level == "warning":
                self.warnings.append(progress.message)
            return
        self.whole(progress)
        self.stage, self.done, self.total, self.unit = progress.stage, progress.done, progress.total, progress.unit
        self.part = progress.part or self.part


class Dispatcher:
    """A thread that hands jobs to workers, the longest waiting first.

    A job whose worker dies goes on from its work folder, with another, ``settings.tries`` times in all. What ran when
    the server was killed waits again from the start of the next one on.

    Args:
        settings: of the server.
        store: where jobs wait.
        fleet: who runs them.
    """

    def __init__(self, settings: ServiceSettings, store: Store, fleet: Fleet) -> None:
        self._settings, self._store, self._fleet = settings, store, fleet
        self._running: dict[str, tuple[int, Live]] = {}
        self._cancelled: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flashportrait-dispatch", daemon=True)
        self.alive_since = time.time()

    @property
    def pids(self) -> list[int]:
        """Of the worker processes that are up."""
        return [pid for pid in self._fleet.pids if pid is not None]

    @property
    def is_alive(self) -> bool:
        """Whether jobs are handed out."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def start(self) -> None:
        """Begin to hand out jobs, those first that ran when the server was killed."""
        for entry in self._store.in_state("running"):
            self._store.put_back(entry.id, again=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new job."""
        self._fleet.wake()

    def live(self, id: str) -> Live | None:
        """How far a job is; None if it doesn't run."""
        running = self._running.get(id)
        return running[1] if running is not None else None

    def cancel(self, id: str) -> bool:
        """Stop a job that waits or runs, within about a second; False if it has ended."""
        ended = self._store.end(id, "cancelled")
        self._cancelled.add(id)  # only now: a job that still waited when this is looked at could be taken afterwards
        self.wake()
        return ended

    def stop(self) -> None:
        """Let running jobs reach a point from which they can go on, and end all workers."""
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 10)
        self._fleet.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._hand_out()
                self._listen(WAIT_SECONDS)
            except Exception:
                logger.exception("the dispatcher met an error and goes on")
                time.sleep(WAIT_SECONDS)
        for worker, _ in self._running.values():
            self._fleet.cancel(worker, STOP_SECONDS)
        while self._running:
            self._listen(WAIT_SECONDS)

    def _hand_out(self) -> None:
        for worker in self._fleet.free():
            entry = self._store.take()
            if entry is None:
                return
            self._running[entry.id] = worker, Live()
            self._fleet.start(worker, Job.from_dict(entry.job))

    def _listen(self, seconds: float) -> None:
        events = self._fleet.events(seconds)
        while self._cancelled:
            id = self._cancelled.pop()
            if id in self._running:
                self._fleet.cancel(self._running[id][0], CANCEL_SECONDS)
        ids = {worker: id for id, (worker, _) in self._running.items()}
        for worker, news in events:
            if isinstance(news, Ended):
                self._end(ids[worker], news)
            else:
                self._running[ids[worker]][1].take(news)

    def _end(self, id: str, ended: Ended) -> None:
        """Note how a job ended, or let it wait again."""
        try:
            self._note_end(id, ended)
        finally:
            del self._running[id]

    def _note_end(self, id: str, ended: Ended) -> None:
        entry = self._store[id]
        if entry.state != "running":  # it was cancelled, which was noted at once
            return
        if ended.status == "cancelled":  # by the end of the server, or someone who ended the process
            self._store.put_back(id, again=True)
        elif ended.status == "died" and entry.attempts < self._settings.tries:
            logger.warning("job %s: %s; it goes on with another", id, ended.error)
            self._store.put_back(id)
        elif ended.status == "done":
            self._store.end(id, "done", summary=ended.summary)
        else:
            if ended.internal or ended.status == "died":
                logger.error("job %s: %s", id, ended.error)
            self._store.end(id, "failed", _told(entry, ended.error or "it failed without saying why"))


def _told(entry: Entry, error: str) -> str:
    """An error as the client may read it: with its own files' names, and no path of this machine."""
    for name in ("portrait", "driving", "output"):
        path = entry.job[name]
        error = error.replace(path, entry.asked.get(name) or Path(path).name)
    return error.replace(str(Path(entry.job["output"]).parent) + os.sep, "")
