"""What a server measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from flashportrait.service.store import State, Store

if TYPE_CHECKING:
    from flashportrait.service.dispatch import Dispatcher


class Measures(Collector):
    """Of one server: requests, jobs by state, workers, its process."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._registry = CollectorRegistry()
        labels = ("method", "path", "status")
        self._requests = Counter("flashportrait_requests", "Requests answered", labels, registry=self._registry)
        self._seconds = Histogram(
            "flashportrait_request_seconds", "Time to answer", ("method", "path"), registry=self._registry
        )
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note a request."""
        self._requests.labels(method, path, status).inc()
        self._seconds.labels(method, path).observe(seconds)

    def collect(self) -> Iterator[Any]:
        """What is counted when it is asked for."""
        jobs = GaugeMetricFamily("flashportrait_jobs", "Jobs on record", labels=["state"])
        for state in get_args(State):
            jobs.add_metric([state], self._store.count(state))
        yield jobs
        yield GaugeMetricFamily("flashportrait_workers", "Worker processes", value=len(self._dispatcher.pids))

    def text(self) -> tuple[bytes, str]:
        """All of it in Prometheus's format, and that format's name."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
