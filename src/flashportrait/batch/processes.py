"""Workers on this machine: processes that are started when they are needed, and replaced when they die."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from flashportrait.batch.fleet import Died, Event
from flashportrait.batch.worker import Ended, Order, Told, Worker

STOP_SECONDS = 5.0
"""How long a process without a task may take to end before it is killed."""


class ProcessFleet:
    """A fixed number of worker processes.

    Args:
        workers: how many.
        motions: folder in which they keep motion rows of drivers.
    """

    def __init__(self, workers: int, motions: Path) -> None:
        self._context = get_context("spawn")
        self._cancel = self._context.Event()
        self._motions, self._threads = motions, max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        self._processes: list[Any] = [None] * workers
        self._pipes: list[Any] = [None] * workers
        self._busy = [False] * workers

    @property
    def pids(self) -> list[int | None]:
        """Processes of the workers; None where none is up."""
        return [process and process.pid for process in self._processes]

    def free(self) -> list[int]:
        """Workers that can take a task."""
        return [worker for worker, busy in enumerate(self._busy) if not busy]

    def spare(self) -> list[int]:
        """None: processes of one machine don't help each other."""
        return []

    def start(self, worker: int, order: Order, helpers: Sequence[int] = ()) -> None:
        """Hand a task to a worker."""
        process = self._processes[worker]
        if process is None or not process.is_alive():
            self._open(worker)
        self._busy[worker] = True
        with contextlib.suppress(OSError):  # it has died: the next look at its pipe finds that
            self._pipes[worker].send(order)

    def events(self, seconds: float) -> list[Event]:
        """What the workers tell, waiting for at most so long."""
        busy = {pipe: worker for worker, pipe in enumerate(self._pipes) if pipe is not None and self._busy[worker]}
        ready: list[Any] = connection.wait(list(busy), seconds)
        events: list[Event] = []
        for pipe in ready:
            worker = busy[pipe]
            told: Told | Ended | Died
            try:
                told = pipe.recv()
            except (EOFError, OSError):
                self._processes[worker].join(STOP_SECONDS)
                told = Died(_why(self._processes[worker].exitcode))
                self._close(worker)
            if not isinstance(told, Told):
                self._busy[worker] = False
            events.append((worker, told))
        return events

    def cancel(self) -> None:
        """Tell all workers to stop what they do, leaving work folders."""
        self._cancel.set()

    def close(self) -> None:
        """End all processes."""
        self._cancel.set()
        for pipe in self._pipes:
            if pipe is not None:
                pipe.close()
        for worker in range(len(self._processes)):
            self._close(worker)

    def _open(self, worker: int) -> None:
        self._close(worker)
        ours, theirs = self._context.Pipe()
        arguments = theirs, self._cancel, self._motions, self._threads, worker
        process = self._context.Process(target=work, args=arguments, name=f"flashportrait-{worker}", daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self._processes[worker], self._pipes[worker] = process, ours

    def _close(self, worker: int) -> None:
        process, pipe = self._processes[worker], self._pipes[worker]
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
            process.join()
        self._processes[worker] = self._pipes[worker] = None


class _Stop:
    """Set when the batch is cancelled, when this process is asked to end, or when the one that started it is gone."""

    def __init__(self, event: Any) -> None:
        self._event, self._parent, self._asked = event, parent_process(), False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
        signal.signal(signal.SIGTERM, self._ask)

    def is_set(self) -> bool:
        gone = self._parent is not None and not self._parent.is_alive()
        return self._asked or self._event.is_set() or gone

    def _ask(self, *_: object) -> None:
        self._asked = True


def work(pipe: connection.Connection, cancel: Any, motions: Path, threads: int | None, number: int) -> None:
    """A worker process's whole life: take orders from the pipe until it is closed."""
    stop = _Stop(cancel)
    _choose_gpu(number)
    worker = Worker(motions, threads, stop)
    while not stop.is_set():
        if not pipe.poll(0.5):
            continue
        try:
            order = pipe.recv()
        except (EOFError, OSError):
            return
        ended = worker.run(order, lambda told: _send(pipe, told))
        _send(pipe, ended)


def _send(pipe: connection.Connection, told: Told | Ended) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the run is stopped at its next step
        pipe.send(told)


def _choose_gpu(number: int) -> None:
    """Spread workers over the GPUs, where there are several."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _why(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        memory = ": out of memory?" if -exitcode == getattr(signal, "SIGKILL", None) and sys.platform == "linux" else ""
        return f"its worker was killed by {name}{memory}"
    return f"its worker ended with exit code {exitcode}"
