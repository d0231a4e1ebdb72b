"""Hands tasks to workers, and to others where workers die; what came of each, and how far all are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flashportrait.batch import records
from flashportrait.batch.fleet import Event, Fleet
from flashportrait.batch.task import Outcome, Task
from flashportrait.batch.worker import Ended, Order, Told
from flashportrait.job import Job
from flashportrait.workers import Died

TRIES = 3
"""How often a task is handed out at most, unless said otherwise."""
POLL_SECONDS = 0.5
WORKLESS_SECONDS = 20.0
"""How long to wait for a first worker before saying so."""
JUDGED_FROM = 0.02
"""The part of all work from which on the time left is estimated."""
CANCEL_SECONDS = 60.0
"""How long workers may take to stop, once they are told to; loading a model can't be interrupted."""


@dataclass(frozen=True)
class Progress:
    """How far a batch is, or one thing that happened in it."""

    jobs_done: int
    """Jobs that have ended, well or not."""
    jobs: int
    """In all."""
    fraction: float
    """Of all work, weighed by frames, 0 to 1."""
    seconds_left: float | None
    """Estimated; None while there is nothing to judge by."""
    outcome: Outcome | None = None
    """Of a job that has just ended."""
    task: Task | None = None
    """The job that a message is about."""
    message: str | None = None
    level: Literal["note", "warning"] | None = None


class Batch:
    """Runs tasks on a fleet.

    Finished ones are not run again, unless they say ``restart``. The others are handed out longest first; where a
    worker has a model loaded, tasks with that model come first. A task whose worker died is handed out again, at most
    ``tries`` times in all, and goes on from its work folder. No task is ever with two workers.

    Args:
        tasks: what to do.
        resume: go on with what interrupted runs left.
        tries: how often a task is handed out, if workers die over it.
        on_progress: told how far the batch is.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        resume: bool = False,
        tries: int = TRIES,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.outcomes = [Outcome(task) for task in tasks]
        """What became of each task, in order; complete when :meth:`run` has ended, however it ended."""
        self.on_progress = on_progress
        """Told how far the batch is."""
        self._resume, self._tries = resume, tries
        for outcome in self.outcomes:
            if not outcome.task.job.restart and records.is_finished(outcome.task):
                outcome.status = "done before"
        due = [outcome for outcome in self.outcomes if outcome.status == "not started"]
        self._pending = sorted(due, key=lambda outcome: -outcome.task.frames)
        self._running: dict[int, Outcome] = {}
        self._helping: dict[int, list[int]] = {}
        self._fractions: dict[int, float] = {}
        self._models: dict[int, tuple[Any, ...]] = {}
        self._began: dict[int, float] = {}
        self._work = sum(outcome.task.frames for outcome in due)
        self._started: float | None = None
        self._workless_since: float | None = None
        self._stopping = False

    @property
    def due(self) -> int:
        """Tasks that have not been handed out yet."""
        return len(self._pending)

    def run(self, fleet: Fleet) -> list[Outcome]:
        """Run all tasks to their end.

        Raises:
            KeyboardInterrupt: it came meanwhile; workers were told to stop, and have left work folders.
        """
        try:
            while self._pending or self._running:
                self._hand_out(fleet)
                self._watch_for_workers()
                for event in fleet.events(POLL_SECONDS):
                    self._take(event)
        except KeyboardInterrupt:
            self._stop(fleet)
            raise
        return self.outcomes

    def _watch_for_workers(self) -> None:
        """Say so, once, if tasks wait and nobody is there to take them."""
        if self._running:
            self._workless_since = float("inf")
        elif self._workless_since is None:
            self._workless_since = time.monotonic()
        elif time.monotonic() - self._workless_since > WORKLESS_SECONDS:
            self._workless_since = float("inf")
            self._tell(message="no worker is up yet: waiting for one, or for room on the cluster", level="warning")

    def _hand_out(self, fleet: Fleet) -> None:
        for worker in fleet.free():
            helping = {helper for helpers in self._helping.values() for helper in helpers}
            if worker in helping or not self._pending:
                continue
            outcome = self._next_for(worker)
            spare = [other for other in fleet.spare() if other not in {worker, *helping}]
            helpers = spare[: len(spare) // (len(self._pending) + 1)]
            outcome.attempts += 1
            self._began.setdefault(outcome.task.index, time.monotonic())
            self._running[worker], self._helping[worker] = outcome, helpers
            self._models[worker] = _model(outcome.task.job)
            resume = outcome.attempts > 1 or (self._resume and not outcome.task.job.restart)
            fleet.start(worker, Order(outcome.task, resume), helpers)

    def _next_for(self, worker: int) -> Outcome:
        model = self._models.get(worker)
        same = (index for index, outcome in enumerate(self._pending) if _model(outcome.task.job) == model)
        return self._pending.pop(next(same, 0))

    def _take(self, event: Event) -> None:
        worker, told = event
        outcome = self._running[worker]
        index = outcome.task.index
        if isinstance(told, Told):
            self._fractions[index] = told.fraction
            self._tell(task=outcome.task, message=told.message, level=told.level)
            return
        del self._running[worker], self._helping[worker]
        self._fractions.pop(index, None)
        if isinstance(told, Ended) and told.status == "cancelled" and not self._stopping:
            told = Died("its worker was asked to end")
        if isinstance(told, Died) and outcome.attempts < self._tries:
            self._models.pop(worker, None)
            self._pending.insert(0, outcome)
            self._tell(task=outcome.task, message=f"{told.why}; the job goes on with another", level="warning")
            return
        if isinstance(told, Died):
            advice = f"the last of {self._tries} tries: see whether memory is short for so many"
            told = Ended("failed", f"{told.why}, {advice}")
        outcome.status, outcome.error, outcome.summary = told.status, told.error, told.summary
        outcome.seconds = time.monotonic() - self._began[index]
        self._tell(outcome=outcome)

    def _stop(self, fleet: Fleet) -> None:
        """Let running tasks stop, and note how they ended."""
        self._stopping = True
        fleet.cancel()
        deadline = time.monotonic() + CANCEL_SECONDS
        while self._running and time.monotonic() < deadline:
            for worker, told in fleet.events(POLL_SECONDS):
                if isinstance(told, Died):
                    told = Ended("cancelled")
                self._take((worker, told))
        for outcome in self._running.values():
            outcome.status = "cancelled"

    def _tell(self, **news: Any) -> None:
        if self.on_progress is None:
            return
        ended = [outcome for outcome in self.outcomes if outcome.status not in ("not started",)]
        done = sum(outcome.task.frames for outcome in ended if outcome.status != "done before")
        done += sum(self._fractions.get(item.task.index, 0.0) * item.task.frames for item in self._running.values())
        fraction = done / self._work if self._work else 1.0
        # Loading is left out: it would count for each job that is left.
        self._started = self._started or time.monotonic()
        elapsed = time.monotonic() - self._started
        left = elapsed / fraction * (1 - fraction) if fraction > JUDGED_FROM else None
        self.on_progress(Progress(len(ended), len(self.outcomes), fraction, left, **news))


def _model(job: Job) -> tuple[Any, ...]:
    """What tells one loaded model from another."""
    return job.model, job.device, job.dtype, job.lora, job.lora_strength
