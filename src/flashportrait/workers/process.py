"""A process that is given orders through a pipe, tells what it does, and may die without harm."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Protocol

from flashportrait.confinement import Confinement, confine

STOP_SECONDS = 5.0
"""How long a process without an order may take to end before it is killed."""
CANCEL, CLOSE = "cancel", "close"


class Worker(Protocol):
    """What a process does with orders."""

    def run(self, order: Any, tell: Callable[[Any], None]) -> Any:
        """Carry an order out, telling how far it is; what it returns is the last that is told."""
        ...


@dataclass(frozen=True)
class Died:
    """A process is gone, and its order with it."""

    why: str


class Supervised:
    """One process that carries out orders one after another; started when it is needed, and again when it has died.

    Args:
        worker: ``worker(cancel)`` makes, in the process, what carries orders out; ``cancel.is_set()`` says whether to
            stop. It has to be importable there: a function of a module, or a ``functools.partial`` of one.
        confinement: what the process may do; None for all.
        name: of the process.
    """

    def __init__(
        self, worker: Callable[[Any], Worker], *, confinement: Confinement | None = None, name: str = "flashportrait"
    ) -> None:
        self._worker, self._confinement, self._name = worker, confinement, name
        self._context = get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None
        self._kill_at: float | None = None
        self.busy = False
        """Whether it has an order."""

    @property
    def pid(self) -> int | None:
        """Of the process; None where none is up."""
        return self._process and self._process.pid

    @property
    def connection(self) -> Any:
        """For ``multiprocessing.connection.wait``: ready when :meth:`poll` has something; None where none is up."""
        return self._pipe

    def start(self, order: Any) -> None:
        """Hand an order over.

        Raises:
            RuntimeError: it has one.
        """
        if self.busy:
            raise RuntimeError("the process has an order already")
        if self._process is None or not self._process.is_alive():
            self._open()
        self.busy, self._kill_at = True, None
        with contextlib.suppress(OSError):  # it has died: the next look at its pipe finds that
            self._pipe.send(order)

    def poll(self, seconds: float = 0.0) -> list[Any]:
        """What was told since the last time, waiting for at most so long; ``Died`` comes last, once.

        Nothing is told without an order.
        """
        told: list[Any] = []
        if self._pipe is None or not self.busy:
            return told
        if self._kill_at is not None:
            seconds = max(0.0, min(seconds, self._kill_at - time.monotonic()))
        while self.busy and self._pipe.poll(seconds):
            seconds = 0.0
            try:
                ended, news = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join(STOP_SECONDS)
                ended, news = True, Died(why_it_ended(self._process.exitcode))
                self._end()
            self.busy = not ended
            told.append(news)
        if self.busy and self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._end(0.0)
            self.busy = False
            told.append(Died("it was stopped"))
        return told

    def cancel(self, within: float | None = None) -> None:
        """Have the order stopped; the process is killed if that takes longer than so many seconds (see :meth:`poll`).

        Args:
            within: seconds; None to wait as long as it takes.
        """
        if not self.busy:
            return
        self._kill_at = time.monotonic() + within if within is not None else None
        with contextlib.suppress(OSError):
            self._pipe.send(CANCEL)

    def close(self) -> None:
        """End the process, which frees its memory."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(CLOSE)
        self._end()
        self.busy = False

    def _open(self) -> None:
        self._end()
        ours, theirs = self._context.Pipe()
        arguments = theirs, self._worker, self._confinement
        process = self._context.Process(target=_work, args=arguments, name=self._name, daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self._process, self._pipe = process, ours

    def _end(self, seconds: float = STOP_SECONDS) -> None:
        process, pipe = self._process, self._pipe
        if pipe is not None:
            pipe.close()
        if process is not None:
            if seconds:
                process.join(seconds)
            if process.is_alive():
                process.kill()
            process.join()
        self._process = self._pipe = None


class _Cancel:
    """Set when the order is cancelled, when this process is asked to end, or when the one that started it is gone."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe, self._set, self.ended = pipe, False, False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
        signal.signal(signal.SIGTERM, self._end)

    def is_set(self) -> bool:
        """Whether to stop; while an order is carried out, nothing else comes through the pipe."""
        try:
            while self._pipe.poll():
                self._set = True
                self.ended = self.ended or self._pipe.recv() == CLOSE
        except (EOFError, OSError):
            self.ended = True
        return self._set or self.ended

    def orders(self) -> Iterator[Any]:
        """Orders as they come, until there will be no more."""
        while not self.ended:
            try:
                if not self._pipe.poll(0.5):
                    continue
                order = self._pipe.recv()
            except (EOFError, OSError):
                return
            if order == CLOSE:
                return
            if order != CANCEL:  # which came too late to stop anything
                self._set = False
                yield order

    def _end(self, *_: object) -> None:
        self.ended = True


def _work(pipe: connection.Connection, make: Callable[[Any], Worker], confinement: Confinement | None) -> None:
    """A process's whole life: take orders from the pipe until it is closed."""
    if confinement is not None:
        confine(confinement)
    cancel = _Cancel(pipe)
    worker = make(cancel)

    def tell(news: Any, ended: bool = False) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the order is stopped at its next step
            pipe.send((ended, news))

    for order in cancel.orders():
        tell(worker.run(order, tell), True)


def why_it_ended(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        memory = ": out of memory?" if -exitcode == getattr(signal, "SIGKILL", None) and sys.platform == "linux" else ""
        return f"its worker was killed by {name}{memory}"
    return f"its worker ended with exit code {exitcode}"
