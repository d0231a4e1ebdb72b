"""A process that runs jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from flashportrait.confinement import Confinement
from flashportrait.errors import UserError
from flashportrait.job import Cancelled, Flag, Job, ModelCache, MotionCache, Progress
from flashportrait.workers.process import Died, Supervised
from flashportrait.workers.running import run_when_free


@dataclass(frozen=True)
class Ended:
    """What became of a job."""

    status: Literal["done", "failed", "cancelled", "died"]
    error: str | None = None
    """One line, of one that failed or over which the process died."""
    internal: bool = False
    """Whether the error is the program's own fault and not one that the user can mend."""
    summary: dict[str, Any] | None = None
    """Of the run, as ``flashportrait animate --json`` has it."""
    work: Path | None = None
    """The folder from which it can go on, where there is one."""


class WorkerProcess:
    """One process that runs jobs one after another, with the last model kept loaded.

    Args:
        motions: folder in which motion rows of drivers are kept; None to read each driver anew.
        threads: CPU threads of jobs that don't say how many; None for all.
        gpu: number of the GPU of jobs that don't say which; None for the first.
        confinement: what the process may do; None for all.
    """

    def __init__(
        self,
        *,
        motions: Path | None = None,
        threads: int | None = None,
        gpu: int | None = None,
        confinement: Confinement | None = None,
    ) -> None:
        self._process = Supervised(partial(JobRunner, motions, threads, gpu), confinement=confinement)
        self._job: Job | None = None
        self._cancelled = False

    @property
    def busy(self) -> bool:
        """Whether it runs a job."""
        return self._process.busy

    @property
    def pid(self) -> int | None:
        """Of the process; None where none is up."""
        return self._process.pid

    @property
    def connection(self) -> Connection | None:
        """For ``multiprocessing.connection.wait``: ready when :meth:`poll` has something; None where none is up."""
        return self._process.connection

    def start(self, job: Job, resume: bool = False) -> None:
        """Run a job, going on with what an interrupted run of it left if ``resume``; returns at once.

        Raises:
            RuntimeError: it runs one.
        """
        self._job, self._cancelled = job, False
        self._process.start((job, resume))

    def poll(self, seconds: float = 0.0) -> list[Progress | Ended]:
        """What was told since the last time, waiting for at most so long; ``Ended`` comes last, once."""
        return [self._ended(news) if isinstance(news, Died) else news for news in self._process.poll(seconds)]

    def cancel(self, within: float | None = 1.0) -> None:
        """Stop the job at its next step or frame; if that takes longer than so many seconds, the process is killed.

        Keep calling :meth:`poll` until ``Ended`` comes; the job's work folder stays.
        """
        self._cancelled = self.busy
        self._process.cancel(within)

    def close(self) -> None:
        """End the process, which frees its memory."""
        self._process.close()

    def _ended(self, died: Died) -> Ended:
        work = work_of(self._job) if self._job is not None else None
        if self._cancelled:
            return Ended("cancelled", work=work)
        return Ended("died", died.why, work=work)


class JobRunner:
    """Runs jobs in its process (``workers.process.Worker``)."""

    def __init__(self, motions: Path | None, threads: int | None, gpu: int | None, cancel: Flag) -> None:
        self._motions = MotionCache(motions) if motions is not None else None
        self._threads, self._cancel = threads, cancel
        self._models = ModelCache()
        if gpu is not None:
            import torch

            torch.cuda.set_device(gpu)

    def run(self, order: tuple[Job, bool], tell: Callable[[Any], None]) -> Ended:
        """Run a job to its end; whatever goes wrong with it is part of the answer."""
        job, resume = order
        job = replace(job, threads=job.threads or self._threads, restart=job.restart and not resume)
        try:
            summary = run_when_free(
                job, self._cancel, models=self._models, on_progress=tell, resume=resume, motion_for=self._motions
            )
        except Cancelled as cancelled:
            return Ended("cancelled", work=cancelled.work)
        except UserError as error:
            return Ended("failed", str(error), work=work_of(job))
        except Exception as error:  # noqa: BLE001 - one job's failure must not stop the others
            return Ended("failed", internal_error(error), internal=True, work=work_of(job))
        return Ended("done", summary=summary.to_dict())


def work_of(job: Job) -> Path | None:
    """The folder from which an interrupted run of the job goes on, where it is there."""
    work = job.output.with_name(f"{job.output.name}.work")
    return work if work.is_dir() else None


def internal_error(error: Exception) -> str:
    """One line about a fault of the program's own."""
    return " ".join(f"internal error: {type(error).__name__}: {error}".split())
