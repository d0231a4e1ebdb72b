"""Many jobs: read from a table, checked as a whole, run by several workers, here or on a Ray cluster."""

from __future__ import annotations

from flashportrait.batch.checking import BatchError, check_jobs
from flashportrait.batch.dispatch import Batch, Progress
from flashportrait.batch.fleet import Fleet
from flashportrait.batch.processes import ProcessFleet
from flashportrait.batch.reading import Row, pair_jobs, read_jobs
from flashportrait.batch.task import Outcome, Task

__all__ = [
    "Batch",
    "BatchError",
    "Fleet",
    "Outcome",
    "ProcessFleet",
    "Progress",
    "Row",
    "Task",
    "check_jobs",
    "pair_jobs",
    "read_jobs",
]
