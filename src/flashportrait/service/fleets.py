"""Who runs the jobs: processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Protocol

from flashportrait.confinement import Confinement, gpu_devices
from flashportrait.errors import UserError
from flashportrait.files import user_folder
from flashportrait.job import Job, Progress
from flashportrait.service.settings import ServiceSettings
from flashportrait.workers import Died, Ended, WorkerProcess
from flashportrait.workers.cluster import Actor, ActorFleet
from flashportrait.workers.jobs import work_of

Event = tuple[int, Progress | Ended]
"""A worker's number, and what it tells. After ``Ended`` it has no job."""

SEAL = "server.seal"
"""A file in the data folder, by which workers elsewhere know that they see the same one."""
LOOK_SECONDS = 0.2
"""Between two looks at a cluster, which rings no bell."""
START_SECONDS = 30.0
"""How long a server waits for the first of a cluster's workers before it goes on without."""


class Fleet(Protocol):
    """Workers, by number."""

    @property
    def pids(self) -> Sequence[int | None]:
        """Their processes; None where none is up."""
        ...

    def free(self) -> list[int]:
        """Workers that can take a job."""
        ...

    def start(self, worker: int, job: Job) -> None:
        """Have a free worker run a job, going on with what an interrupted run of it left."""
        ...

    def events(self, seconds: float) -> Sequence[Event]:
        """What the workers tell, waiting for at most so long."""
        ...

    def cancel(self, worker: int, within: float) -> None:
        """Have a worker stop its job; its process is killed if that takes longer than so many seconds."""
        ...

    def wake(self) -> None:
        """Have :meth:`events` return; called by other threads."""
        ...

    def close(self) -> None:
        """Let all workers go."""
        ...


def make_fleet(settings: ServiceSettings) -> Fleet:
    """Workers as a server's settings say.

    Raises:
        UserError: there is no such cluster, or none of its workers can do a job.
    """
    return ProcessFleet(settings) if settings.ray is None else RayFleet(settings, settings.ray)


class ProcessFleet:
    """Processes of this machine, started when they are needed."""

    def __init__(self, settings: ServiceSettings) -> None:
        count = settings.workers or 1
        threads = settings.threads or max(1, (os.cpu_count() or 1) // count)
        self._workers = [worker_process(settings, threads) for _ in range(count)]
        self._lock = threading.Lock()
        self._ours, self._bell = connection.Pipe(duplex=False)

    @property
    def pids(self) -> Sequence[int | None]:
        """Their processes; None where none is up."""
        return [worker.pid for worker in self._workers]

    def free(self) -> list[int]:
        """Workers that can take a job."""
        return [number for number, worker in enumerate(self._workers) if not worker.busy]

    def start(self, worker: int, job: Job) -> None:
        """Have a free worker run a job."""
        self._workers[worker].start(job, resume=True)

    def events(self, seconds: float) -> Sequence[Event]:
        """What the workers tell, waiting for at most so long."""
        pipes = [worker.connection for worker in self._workers if worker.busy and worker.connection is not None]
        connection.wait([*pipes, self._ours], seconds)
        while self._ours.poll():
            self._ours.recv_bytes()
        return [(number, news) for number, worker in enumerate(self._workers) for news in worker.poll()]

    def cancel(self, worker: int, within: float) -> None:
        """Have a worker stop its job."""
        self._workers[worker].cancel(within)

    def wake(self) -> None:
        """Have :meth:`events` return."""
        with self._lock:
            self._bell.send_bytes(b"!")

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.close()


class RayFleet(ActorFleet):
    """Actors of a Ray cluster whose nodes share the data folder.

    Args:
        settings: of the server.
        address: of the cluster.

    Raises:
        UserError: Ray isn't installed, there is no such cluster, or none of its workers sees the data folder.
    """

    later = 30.0

    def __init__(self, settings: ServiceSettings, address: str) -> None:
        seal = settings.data / SEAL
        seal.write_text(secrets.token_hex(16))
        super().__init__(address, settings.workers, JobActor, settings, seal.read_text())
        self._jobs: dict[int, Job] = {}
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self.free() and time.monotonic() < deadline:
                self.events(LOOK_SECONDS)
        except UserError:
            self.close()
            raise

    def start(self, worker: int, job: Job) -> None:
        """Have a free worker run a job."""
        self._jobs[worker] = job
        self._hand_over(worker, job)

    def events(self, seconds: float) -> list[Event]:
        """What the workers tell, waiting for at most so long."""
        told = super().events(min(seconds, LOOK_SECONDS))
        return [(worker, self._ended(worker, news) if isinstance(news, Died) else news) for worker, news in told]

    def cancel(self, worker: int, within: float) -> None:
        """Have a worker stop its job."""
        if worker in self._numbers:  # or else its job has just ended
            self._actors[worker].cancel.remote(self._numbers[worker], within)

    def wake(self) -> None:
        """Nothing: it looks often enough."""

    def _ended(self, worker: int, died: Died) -> Ended:
        return Ended("died", died.why, work=work_of(self._jobs[worker]))


class JobActor(Actor):
    """A worker on a node: it has a confined process run the jobs, as a server does on its own machine.

    Args:
        threads: CPU threads of jobs that don't say how many.
        settings: of the server.
        seal: what is written in the data folder that the server sees.
    """

    def __init__(self, threads: int, settings: ServiceSettings, seal: str) -> None:
        super().__init__()
        self._settings, self._seal = settings, seal
        self._process = worker_process(settings, settings.threads or threads)
        self._stop: tuple[int, float] | None = None

    def ready(self) -> int:
        """Its process, once it is up.

        Raises:
            UserError: this node doesn't see the data folder.
        """
        self._look()
        return super().ready()

    def run(self, order: Job) -> Ended:
        """Run a job to its end.

        Raises:
            UserError: this node, on which Ray may have started the actor anew, doesn't see the data folder.
        """
        self._look()
        self._process.start(order, resume=True)
        while True:
            if self._stop is not None and self._stop[0] == self._number:
                self._process.cancel(self._stop[1])
                self._stop = None
            for news in self._process.poll(LOOK_SECONDS):
                if isinstance(news, Ended):
                    return news
                self.tell(news)

    def cancel(self, number: int, within: float) -> None:
        """Stop the order of that number, whether it has come already or not."""
        self._stop = number, within

    def close(self) -> None:
        """End the process that runs jobs."""
        self._process.close()

    def _look(self) -> None:
        data, found = self._settings.data, None
        with contextlib.suppress(OSError):
            found = (data / SEAL).read_text()
        if found != self._seal:
            node = socket.gethostname()
            raise UserError(f"'{data}' on node {node} is not the server's: give a --data folder that all nodes share")


def worker_process(settings: ServiceSettings, threads: int) -> WorkerProcess:
    """A process that may do what a server's jobs need, on the machine where this is called."""
    folders = [user_folder("cache"), Path.home() / ".cache" / "huggingface"]
    folders += [Path(model).absolute() for model in settings.models if Path(model).is_dir()]
    if settings.templates is not None:
        folders.append(settings.templates.absolute())
    devices = gpu_devices()
    confinement = Confinement(
        memory=None if devices else settings.memory,  # a GPU's driver reserves more than it uses
        writable=(settings.data, user_folder("config")),
        readable=tuple(folders),
        devices=devices,
    )
    return WorkerProcess(motions=settings.data / "motions", threads=threads, confinement=confinement)
