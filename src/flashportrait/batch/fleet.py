"""What the batch asks of those who run its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flashportrait.batch.worker import Ended, Order, Told
from flashportrait.workers import Died

Event = tuple[int, Told | Ended | Died]
"""A worker's number, and what it tells. After ``Ended`` and ``Died`` it has no task."""


class Fleet(Protocol):
    """Workers, by number."""

    def free(self) -> list[int]:
        """Workers that can take a task."""
        ...

    def spare(self) -> list[int]:
        """Workers without a task that can help another with its windows, or will once they are up."""
        ...

    def start(self, worker: int, order: Order, helpers: Sequence[int] = ()) -> None:
        """Hand a task to a free worker, with spare ones to help it."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What the workers tell, waiting for at most so long."""
        ...

    def cancel(self) -> None:
        """Tell all workers to stop what they do, leaving work folders."""
        ...

    def close(self) -> None:
        """Let all workers go."""
        ...
