"""What a worker does, whatever starts it: runs tasks one after another, with what can be shared between them kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flashportrait.batch import records, storage
from flashportrait.batch.task import FILES, Status, Task
from flashportrait.errors import UserError
from flashportrait.job import Cancelled, Helper, InUse, Job, ModelCache, MotionCache, Progress, Summary, run

LOCK_SECONDS = 60.0
"""How long to wait for another run to an output to end: that of a worker that is about to be found dead."""
TELL_SECONDS = 0.25
"""Least time between two counts that are told."""
SHARES = {"motion": 0.1, "denoise": 0.7, "decode": 0.2}
"""Of a job's time, by stage, about: to say how far it is."""


@dataclass(frozen=True)
class Told:
    """How far a worker is with its task, or a message."""

    fraction: float
    """Of the task, 0 to 1."""
    message: str | None = None
    level: Literal["note", "warning"] | None = None


@dataclass(frozen=True)
class Ended:
    """What became of a worker's task."""

    status: Status
    error: str | None = None
    summary: dict[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """A task as it is handed to a worker."""

    task: Task
    resume: bool
    """Go on with what an interrupted run left, if there is something."""


class OnceEach:
    """Motion rows kept in a folder, each read by one process while the others wait for it."""

    def __init__(self, folder: Path) -> None:
        self._cache = MotionCache(folder)

    def __call__(self, key: str, extract: Callable[[], Any]) -> Any:
        """The rows kept under ``key``; if there are none, those of ``extract()``, which are kept."""
        from filelock import FileLock

        self._cache.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._cache.folder / f"{key}.lock"):
            return self._cache(key, extract)


class Worker:
    """Runs tasks in its process.

    Args:
        motions: folder in which motion rows of drivers are kept.
        threads: CPU threads of jobs that don't say how many.
        cancel: looked at often; once it is set, the task stops and leaves its work folder.
    """

    def __init__(self, motions: Path, threads: int | None, cancel: Any) -> None:
        self._motions, self._threads, self._cancel = OnceEach(motions), threads, cancel
        self._fetched: dict[str, str] = {}
        self.models = ModelCache()

    def run(self, order: Order, tell: Callable[[Told], None], helpers: Sequence[Helper] = ()) -> Ended:
        """Run a task to its end; whatever goes wrong with it is part of the answer."""
        task = order.task
        try:
            self._fetch(task)
            description = records.describe(task)
            summary = self._animate(self._job(order), order.resume, _Teller(tell), helpers)
            if "output" in task.remote:
                storage.store(task.job.output, task.output)
                task.job.output.unlink()
            records.note_finished(task, description)
        except Cancelled:
            return Ended("cancelled")
        except UserError as error:
            return Ended("failed", str(error))
        except Exception as error:  # noqa: BLE001 - one job's failure must not stop the others
            line = " ".join(str(error).split())
            return Ended("failed", f"internal error: {type(error).__name__}: {line}")
        return Ended("done", summary={**summary.to_dict(), "output": task.output})

    def _animate(self, job: Job, resume: bool, tell: _Teller, helpers: Sequence[Helper]) -> Summary:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return run(
                    job,
                    models=self.models,
                    on_progress=tell,
                    resume=resume,
                    cancel=self._cancel,
                    motion_for=self._motions,
                    helpers=helpers,
                )
            except InUse:
                if time.monotonic() > deadline or self._cancel.is_set():
                    raise
                time.sleep(0.5)

    def _job(self, order: Order) -> Job:
        job = order.task.job
        return replace(job, threads=job.threads or self._threads, restart=job.restart and not order.resume)

    def _fetch(self, task: Task) -> None:
        """Bring inputs here that are elsewhere, unless they are here, and make the folder of such an output."""
        for name in FILES:
            if name not in task.remote:
                continue
            address, local = task.remote[name], getattr(task.job, name)
            if name == "output":
                storage.make_scratch(local)
                continue
            found = storage.identity(address)
            if self._fetched.get(address) != found or not local.is_file():
                storage.fetch(address, local)
                self._fetched[address] = found


class _Teller:
    """Makes a job's progress one number, told now and then; messages are told at once."""

    def __init__(self, tell: Callable[[Told], None]) -> None:
        self._tell = tell
        self._parts: dict[str, float] = {}
        self._told = float("-inf")

    def __call__(self, progress: Progress) -> None:
        if progress.total:
            self._parts[progress.stage] = progress.done / progress.total
        if self._parts.get("denoise"):
            self._parts["motion"] = 1.0
        fraction = sum(share * self._parts.get(stage, 0.0) for stage, share in SHARES.items())
        now = time.monotonic()
        if progress.message is not None or now - self._told >= TELL_SECONDS:
            self._told = now
            self._tell(Told(fraction, progress.message, progress.level))
