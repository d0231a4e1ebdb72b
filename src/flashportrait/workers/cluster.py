"""Workers on a Ray cluster: one actor a GPU, or a share of the CPUs, each with its model loaded.

Ray places the actors, starts them again where there is room when a worker or node dies, and grows the cluster where it
may. This module only hands orders to actors that are up, one to each, and asks how far they are.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from flashportrait.errors import UserError
from flashportrait.workers.process import Died

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
START_TRIES = 3
"""How often a worker may fail to start before it is given up."""
RETRY_SECONDS = 1.0
"""How long to wait before asking again whether a worker is up that Ray is starting anew."""
NEWS_SECONDS = 0.5
"""How long an actor waits for something to tell."""


class Actor(ABC):
    """What all actors do; each kind adds ``run(order)``, which calls :meth:`tell` and returns what became of it."""

    def __init__(self) -> None:
        self._news: list[tuple[int, Any]] = []
        self._number = 0

    @abstractmethod
    def run(self, order: Any) -> Any:
        """Carry an order out."""

    def tell(self, news: Any) -> None:
        """Keep something that is told of the order until it is asked for."""
        self._news.append((self._number, news))

    def carry_out(self, number: int, order: Any) -> Any:
        """``run``, with the number under which the order is known."""
        self._number = number
        return self.run(order)

    def ready(self) -> int:
        """Its process, once it is up.

        Raises:
            UserError: it can't do its work where it is.
        """
        return os.getpid()

    def news(self) -> list[tuple[int, Any]]:
        """What was told since the last time, each with its order's number, waiting a while for something."""
        pause = threading.Event()
        pause.wait(NEWS_SECONDS)
        news, self._news[:] = self._news[:], []
        return news

    def close(self) -> None:  # noqa: B027 - some keep nothing
        """Remove what was kept while it was up."""


class ActorFleet:
    """Actors as workers, by number.

    Args:
        address: of a running cluster (``auto``: the one on this machine), or ``local`` to start one for this program.
        workers: how many actors; unless given, one for each GPU, or for each node where there are none.
        actor: their class, an :class:`Actor`; made as ``actor(threads, *arguments)``, with the CPUs that it may use.
        arguments: of all of them.

    Raises:
        UserError: Ray isn't installed, or there is no such cluster.
    """

    later = float("inf")
    """Seconds after which a worker that couldn't be started is tried once more."""

    def __init__(self, address: str, workers: int | None, actor: type[Actor], *arguments: Any) -> None:
        self._ray = ray = _import_ray(address)
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            _connect(ray, address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        options = actor_options(nodes, workers)
        count = workers or sum(_slots(node, options) for node in nodes) or 1
        # Orders come one at a time; the other calls are answered meanwhile.
        remote = ray.remote(actor).options(**options, max_concurrency=4, max_restarts=-1, max_task_retries=0)
        self._actors = [remote.remote(max(1, int(options["num_cpus"])), *arguments) for _ in range(count)]
        self._starting: dict[Any, int] = {handle.ready.remote(): worker for worker, handle in enumerate(self._actors)}
        self.pids: list[int | None] = [None] * count
        """Processes of the workers, on their nodes; None where none is up."""
        self._away: dict[int, float] = {}
        self._failures = [0] * count
        self._orders: dict[Any, int] = {}
        self._numbers: dict[int, int] = {}
        self._count = 0
        self._questions: dict[Any, int] = {}

    def free(self) -> list[int]:
        """Workers that are up and have no order."""
        taken = {*self._starting.values(), *self._orders.values(), *self._away}
        return [worker for worker in range(len(self._actors)) if worker not in taken]

    def events(self, seconds: float) -> list[tuple[int, Any]]:
        """What the workers tell, waiting for at most so long; what ``run`` returned, or ``Died``, is the last."""
        self._call_back()
        waiting = [*self._starting, *self._orders]
        if not waiting:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        answered, _ = self._ray.wait(list(self._questions), num_returns=len(self._questions), timeout=0)
        events: list[tuple[int, Any]] = []
        for question in answered:
            worker = self._questions.pop(question)
            # What was told of the order before may come only now, and is no longer wanted.
            events += [(worker, told) for number, told in self._told(question) if number == self._numbers.get(worker)]
            if worker in self._numbers:
                self._ask(worker)
        for reference in ready:
            events += self._settled(reference)
        return events

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

    def _hand_over(self, worker: int, order: Any) -> None:
        """Give a worker an order."""
        self._count += 1
        self._numbers[worker] = self._count
        self._orders[self._actors[worker].carry_out.remote(self._count, order)] = worker
        if worker not in self._questions.values():  # one that was asked during the order before answers soon
            self._ask(worker)

    def _ask(self, worker: int) -> None:
        self._questions[self._actors[worker].news.remote()] = worker

    def _settled(self, reference: Any) -> list[tuple[int, Any]]:
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
        del self._numbers[worker]
        try:
            return [(worker, self._ray.get(reference))]
        except self._ray.exceptions.RayError as error:
            self.pids[worker] = None
            self._away[worker] = time.monotonic() + RETRY_SECONDS
            return [(worker, Died(_users_error(error) or "its worker is gone from the cluster"))]

    def _not_up(self, worker: int, error: Exception) -> None:
        """Ask again later, unless the worker can't be started at all."""
        if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
            self._failures[worker] += 1
        given_up = self._failures[worker] >= START_TRIES
        self._away[worker] = time.monotonic() + (self.later if given_up else RETRY_SECONDS)
        if not given_up:
            return
        reason = _users_error(error) or f"is flashportrait installed on its nodes? ({' '.join(str(error).split())})"
        if min(self._failures) >= START_TRIES:
            raise UserError(f"no worker starts on the cluster: {reason}")
        logger.warning("a worker doesn't start on the cluster, and is done without: %s", reason)

    def _call_back(self) -> None:
        """Ask workers that were gone whether Ray has started them anew."""
        for worker in [worker for worker, due in self._away.items() if time.monotonic() >= due]:
            del self._away[worker]
            self._starting[self._actors[worker].ready.remote()] = worker

    def _told(self, question: Any) -> list[tuple[int, Any]]:
        """An answer to :meth:`_ask`; none if the actor died over it."""
        try:
            return self._ray.get(question)
        except self._ray.exceptions.RayError:
            return []


def _users_error(error: Exception) -> str | None:
    """What an actor has to say to the user; None where it broke or died."""
    cause = getattr(error, "cause", None)
    return str(cause) if isinstance(cause, UserError) else None


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


def _import_ray(address: str) -> Any:
    if address == "local" and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on all of the machine's addresses, and runs what it is sent: by those alone who have this token.
        # It is read when Ray is imported.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'flashportrait[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    host, colon, port = address.rpartition(":")
    asked_to_end = signal.getsignal(signal.SIGTERM)
    try:
        if colon and port.isdecimal() and "/" not in address:
            # Ray itself takes minutes to find out.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        if "AuthToken" in f"{error} {error.__cause__}":
            advice = "set RAY_AUTH_MODE=token, and have the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            raise UserError(f"the Ray cluster at '{address}' asks for a token: {advice}") from error
        reason = " ".join(str(error).split())
        raise UserError(f"there is no Ray cluster at '{address}' to connect to ({reason})") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, asked_to_end)  # Ray has put its own in its place
