"""Workers on a Ray cluster: one actor a GPU, or a share of the CPUs, each with its model loaded.

Ray places the actors, starts them again where there is room when a worker or node dies, and grows the cluster where it
may. This module only hands tasks to actors that are up, one to each, and asks how far they are.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from flashportrait.batch.fleet import Event
from flashportrait.batch.storage import scratch_root
from flashportrait.batch.worker import Ended, Order, Told, Worker
from flashportrait.errors import UserError
from flashportrait.job import Helper, Job, evaluate
from flashportrait.workers import Died

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
START_TRIES = 3
"""How often a worker may fail to start before it is given up."""
RETRY_SECONDS = 1.0
"""How long to wait before asking again whether a worker is up that Ray is starting anew."""


class RayFleet:
    """Actors as workers.

    Args:
        address: of a running cluster (``auto``: the one on this machine), or ``local`` to start one for this batch.
        workers: how many actors; unless given, one for each GPU, or for each node where there are none.

    Raises:
        UserError: Ray isn't installed, or there is no such cluster.
    """

    def __init__(self, address: str, workers: int | None) -> None:
        self._ray = ray = _import_ray()
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            _connect(ray, address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        options = actor_options(nodes, workers)
        count = workers or sum(_slots(node, options) for node in nodes) or 1
        # Orders come one at a time; the other calls are answered meanwhile.
        actor = ray.remote(Actor).options(**options, max_concurrency=4, max_restarts=-1, max_task_retries=0)
        batch = uuid.uuid4().hex
        self._actors = [actor.remote(options["num_cpus"], batch) for _ in range(count)]
        self._starting: dict[Any, int] = {handle.ready.remote(): worker for worker, handle in enumerate(self._actors)}
        self.pids: list[int | None] = [None] * count
        """Processes of the workers, on their nodes; None where none has come up yet."""
        self._away: dict[int, float] = {}
        self._failures = [0] * count
        self._orders: dict[Any, int] = {}
        self._questions: dict[Any, int] = {}

    def free(self) -> list[int]:
        """Workers that are up and have no task."""
        taken = {*self._starting.values(), *self._orders.values(), *self._away}
        return [worker for worker in range(len(self._actors)) if worker not in taken]

    def spare(self) -> list[int]:
        """Workers without a task that can help another, or will once they are up."""
        taken = {*self._orders.values(), *(worker for worker, due in self._away.items() if due == float("inf"))}
        return [worker for worker in range(len(self._actors)) if worker not in taken]

    def start(self, worker: int, order: Order, helpers: Sequence[int] = ()) -> None:
        """Hand a task to a worker."""
        self._orders[self._actors[worker].run.remote(order, [self._actors[helper] for helper in helpers])] = worker
        self._ask(worker)

    def events(self, seconds: float) -> list[Event]:
        """What the workers tell, waiting for at most so long."""
        self._call_back()
        waiting = [*self._starting, *self._orders]
        if not waiting:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        answered, _ = self._ray.wait(list(self._questions), num_returns=len(self._questions), timeout=0)
        events: list[Event] = []
        for question in answered:
            worker = self._questions.pop(question)
            events += [(worker, told) for told in self._told(question) if worker in self._orders.values()]
            if worker in self._orders.values():
                self._ask(worker)
        for reference in ready:
            events += self._settled(reference)
        return events

    def cancel(self) -> None:
        """Tell all workers to stop what they do, leaving work folders."""
        for actor in self._actors:
            actor.cancel.remote()

    def close(self) -> None:
        """Let all workers go."""
        if not self._orders:
            up = [self._actors[worker].close.remote() for worker in self.free()]
            self._ray.wait(up, num_returns=len(up), timeout=CLOSE_SECONDS)
        if self._started_ray:
            self._ray.shutdown()
            return
        for actor in self._actors:
            self._ray.kill(actor)

    def _ask(self, worker: int) -> None:
        self._questions[self._actors[worker].news.remote()] = worker

    def _settled(self, reference: Any) -> list[Event]:
        """What an answer means that has come."""
        if reference in self._starting:
            worker = self._starting.pop(reference)
            try:
                self.pids[worker] = self._ray.get(reference)
                self._failures[worker] = 0
            except self._ray.exceptions.RayError as error:
                self._not_up(worker, error)
            return []
        worker = self._orders.pop(reference)
        try:
            return [(worker, self._ray.get(reference))]
        except self._ray.exceptions.RayError:
            self._away[worker] = time.monotonic() + RETRY_SECONDS
            return [(worker, Died("its worker is gone from the cluster"))]

    def _not_up(self, worker: int, error: Exception) -> None:
        """Ask again later, unless the worker can't be started at all."""
        if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
            self._failures[worker] += 1
        given_up = self._failures[worker] >= START_TRIES
        self._away[worker] = float("inf") if given_up else time.monotonic() + RETRY_SECONDS
        if min(self._failures) >= START_TRIES:
            reason = " ".join(str(error).split())
            raise UserError(f"no worker starts on the cluster: is flashportrait installed on its nodes? ({reason})")

    def _call_back(self) -> None:
        """Ask workers that were gone whether Ray has started them anew."""
        for worker in [worker for worker, due in self._away.items() if time.monotonic() >= due]:
            del self._away[worker]
            self._starting[self._actors[worker].ready.remote()] = worker

    def _told(self, question: Any) -> list[Told]:
        """An answer to :meth:`_ask`; none if the actor died over it."""
        try:
            return self._ray.get(question)
        except self._ray.exceptions.RayError:
            return []


class Actor:
    """A worker's process on the cluster.

    Args:
        threads: CPU threads of jobs that don't say how many.
        batch: name of the batch: its workers on one machine share the motion rows of drivers.
    """

    def __init__(self, threads: int, batch: str) -> None:
        self._stop = threading.Event()
        self._motions = scratch_root() / f"motions-{batch}"
        self._worker = Worker(self._motions, max(1, int(threads)), self._stop)
        self._news: list[Told] = []

    def ready(self) -> int:
        """Its process, once it is up."""
        return os.getpid()

    def run(self, order: Order, others: Sequence[Any]) -> Ended:
        """Run a task to its end, sharing its windows out to other actors."""
        self._news.clear()
        return self._worker.run(order, self._news.append, [_helper(other) for other in others])

    def evaluate(self, job: Job, plan: Any, inputs: Mapping[str, Any]) -> Any:
        """Compute for another actor's task."""
        return evaluate(job, plan, inputs, self._worker.models)

    def news(self) -> list[Told]:
        """What was told since the last time, waiting a while for something."""
        pause = threading.Event()
        pause.wait(0.5)
        news, self._news[:] = self._news[:], []
        return news

    def cancel(self) -> None:
        """Stop at the next step."""
        self._stop.set()

    def close(self) -> None:
        """Remove what was kept for this batch."""
        shutil.rmtree(self._motions, ignore_errors=True)


def _helper(actor: Any) -> Helper:
    """Has an actor compute, and waits for it."""
    import ray

    return lambda job, plan, inputs: ray.get(actor.evaluate.remote(job, plan, inputs))


def actor_options(nodes: Sequence[dict[str, float]], workers: int | None) -> dict[str, float]:
    """What each actor takes of a node: a GPU and its share of the CPUs, or a share of the CPUs.

    Args:
        nodes: resources of each.
        workers: how many actors there shall be, if that is settled.
    """
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if gpus:
        return {"num_cpus": max(1, int(min(node.get("CPU", 0) // node["GPU"] for node in gpus))), "num_gpus": 1}
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    if workers is None:
        return {"num_cpus": min(cpus)}
    shares = range(max(cpus), 1, -1)
    return {"num_cpus": next((share for share in shares if sum(cpu // share for cpu in cpus) >= workers), 1)}


def _slots(node: dict[str, float], options: dict[str, float]) -> int:
    """Actors that fit on a node."""
    if "num_gpus" in options:
        return int(node.get("GPU", 0))
    return int(node.get("CPU", 0) // options["num_cpus"])


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'flashportrait[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdecimal() and "/" not in address:
            # Ray itself takes minutes to find out.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"there is no Ray cluster at '{address}' to connect to ({reason})") from error
