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
from flashportrait.job import Cancelled, Helper, Job, ModelCache, MotionCache, Progress
from flashportrait.workers import WholeRun, run_when_free
from flashportrait.workers.jobs import internal_error

TELL_SECONDS = 0.25
"""Least time between two counts that are told."""


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
            summary = run_when_free(
                self._job(order),
                self._cancel,
                models=self.models,
                on_progress=_Teller(tell),
                resume=order.resume,
                motion_for=self._motions,
                helpers=helpers,
            )
            if "output" in task.remote:
                storage.store(task.job.output, task.output)
                task.job.output.unlink()
            records.note_finished(task, description)
        except Cancelled:
            return Ended("cancelled")
        except UserError as error:
            return Ended("failed", str(error))
        except Exception as error:  # noqa: BLE001 - one job's failure must not stop the others
            return Ended("failed", internal_error(error))
        return Ended("done", summary={**summary.to_dict(), "output": task.output})

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
        self._tell, self._whole = tell, WholeRun()
        self._told = float("-inf")

    def __call__(self, progress: Progress) -> None:
        self._whole(progress)
        now = time.monotonic()
        if progress.message is not None or now - self._told >= TELL_SECONDS:
            self._told = now
            self._tell(Told(self._whole.fraction, progress.message, progress.level))
