"""One job of a batch, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flashportrait.job import Job

FILES = ("portrait", "driving", "output")
"""A job's settings that may be addresses, such as ``s3://bucket/clip.mp4``, in a batch."""

Status = Literal["done", "done before", "failed", "cancelled", "not started"]
STATUSES: tuple[Status, ...] = ("done", "done before", "failed", "cancelled", "not started")


@dataclass(frozen=True)
class Task:
    """One job, ready to be handed to a worker."""

    index: int
    """Place in the batch, from 0."""
    source: str
    """Where it was asked for, ``jobs.csv:3``."""
    job: Job
    """Its settings, with absolute paths; in the place of an address, the name of a local copy."""
    remote: Mapping[str, str] = field(default_factory=dict)
    """Addresses of files that are not local, by setting: some of ``FILES``."""
    frames: int = 1
    """Of the driver, as a measure of the work; 1 where that isn't known."""

    @property
    def output(self) -> str:
        """Where the result goes: a path or an address."""
        return self.remote.get("output", str(self.job.output))

    @property
    def is_unfinished(self) -> bool:
        """Whether an interrupted run to its output has left a work folder here."""
        return self.job.output.with_name(f"{self.job.output.name}.work").is_dir()


@dataclass
class Outcome:
    """What became of a task."""

    task: Task
    status: Status = "not started"
    error: str | None = None
    """One line, of one that failed."""
    attempts: int = 0
    """How often it was handed to a worker: above 1 if workers died."""
    seconds: float = 0.0
    """From the first time it was handed out to its end."""
    summary: dict[str, Any] | None = None
    """Of the run, as ``flashportrait animate --json`` has it."""

    def to_dict(self) -> dict[str, Any]:
        """An entry of the report."""
        return {
            "source": self.task.source,
            "output": self.task.output,
            "status": self.status,
            "error": self.error,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "job": self.task.job.to_dict() | dict(self.task.remote),
            "summary": self.summary,
        }
