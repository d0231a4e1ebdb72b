"""A batch's workers on a Ray cluster, who also help each other with the windows of one job."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from flashportrait.batch.storage import scratch_root
from flashportrait.batch.worker import Ended, Order, Worker
from flashportrait.job import Helper, Job, evaluate
from flashportrait.workers.cluster import Actor, ActorFleet


class RayFleet(ActorFleet):
    """Actors that run tasks.

    Args:
        address, workers: as of :class:`~flashportrait.workers.cluster.ActorFleet`.

    Raises:
        UserError: Ray isn't installed, or there is no such cluster.
    """

    def __init__(self, address: str, workers: int | None) -> None:
        super().__init__(address, workers, TaskActor, uuid.uuid4().hex)

    def spare(self) -> list[int]:
        """Workers without a task that can help another, or will once they are up."""
        taken = {*self._orders.values(), *(worker for worker, due in self._away.items() if due == float("inf"))}
        return [worker for worker in range(len(self._actors)) if worker not in taken]

    def start(self, worker: int, order: Order, helpers: Sequence[int] = ()) -> None:
        """Hand a task to a worker."""
        self._hand_over(worker, (order, [self._actors[helper] for helper in helpers]))

    def cancel(self) -> None:
        """Tell all workers to stop what they do, leaving work folders."""
        for actor in self._actors:
            actor.cancel.remote()


class TaskActor(Actor):
    """A worker's process on the cluster.

    Args:
        threads: CPU threads of jobs that don't say how many.
        batch: name of the batch: its workers on one machine share the motion rows of drivers.
    """

    def __init__(self, threads: int, batch: str) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._motions = scratch_root() / f"motions-{batch}"
        self._worker = Worker(self._motions, threads, self._stop)

    def run(self, order: tuple[Order, Sequence[Any]]) -> Ended:
        """Run a task to its end, sharing its windows out to other actors."""
        task, others = order
        return self._worker.run(task, self.tell, [_helper(other) for other in others])

    def evaluate(self, job: Job, plan: Any, inputs: Mapping[str, Any]) -> Any:
        """Compute for another actor's task."""
        return evaluate(job, plan, inputs, self._worker.models)

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
