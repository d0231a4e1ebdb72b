"""Workers on this machine: processes that are started when they are needed, and replaced when they die."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

from flashportrait.batch.fleet import Event
from flashportrait.batch.worker import Order, Worker
from flashportrait.workers import Supervised


class ProcessFleet:
    """A fixed number of worker processes.

    Args:
        workers: how many.
        motions: folder in which they keep motion rows of drivers.
    """

    def __init__(self, workers: int, motions: Path) -> None:
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        self._processes = [
            Supervised(partial(make_worker, motions, threads, number), name=f"flashportrait-{number}")
            for number in range(workers)
        ]

    @property
    def pids(self) -> list[int | None]:
        """Processes of the workers; None where none is up."""
        return [process.pid for process in self._processes]

    def free(self) -> list[int]:
        """Workers that can take a task."""
        return [worker for worker, process in enumerate(self._processes) if not process.busy]

    def spare(self) -> list[int]:
        """None: processes of one machine don't help each other."""
        return []

    def start(self, worker: int, order: Order, helpers: Sequence[int] = ()) -> None:
        """Hand a task to a worker."""
        self._processes[worker].start(order)

    def events(self, seconds: float) -> list[Event]:
        """What the workers tell, waiting for at most so long."""
        connection.wait([process.connection for process in self._processes if process.busy], seconds)
        return [(worker, told) for worker, process in enumerate(self._processes) for told in process.poll()]

    def cancel(self) -> None:
        """Tell all workers to stop what they do, leaving work folders."""
        for process in self._processes:
            process.cancel()

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.cancel()
        for process in self._processes:
            process.close()


def make_worker(motions: Path, threads: int | None, number: int, cancel: Any) -> Worker:
    """What a process runs tasks with; processes are spread over the GPUs, where there are several."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())
    return Worker(motions, threads, cancel)
