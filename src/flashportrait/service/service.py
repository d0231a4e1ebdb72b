"""A server's parts, and what is said of its jobs."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress
from typing import Any

from flashportrait.service.dispatch import Dispatcher, Live
from flashportrait.service.errors import Refused
from flashportrait.service.expiry import Sweeper
from flashportrait.service.fleets import make_fleet
from flashportrait.service.keys import Key, Keys
from flashportrait.service.measures import Measures
from flashportrait.service.settings import ServiceSettings
from flashportrait.service.store import ENDED, Entry, Store

REMOVE_SECONDS = 10.0
"""How long a job that is removed may take to stop."""


class Service:
    """A server's parts, and what is said of its jobs."""

    def __init__(self, settings: ServiceSettings, keys: Keys) -> None:
        settings.jobs.mkdir(parents=True, exist_ok=True)
        self.settings, self.keys = settings, keys
        self.store = Store(settings.data / "jobs.sqlite")
        self.dispatcher = Dispatcher(settings, self.store, make_fleet(settings))
        self.sweeper = Sweeper(settings, self.store)
        self.measures = Measures(self.store, self.dispatcher)
        self.looking = asyncio.Semaphore(settings.looks)
        """Held by those whose files are looked at."""

    def start(self) -> None:
        """Begin to work."""
        self.dispatcher.start()
        self.sweeper.start()

    def stop(self) -> None:
        """Let running jobs reach a point from which they can go on."""
        self.sweeper.stop()
        self.dispatcher.stop()
        self.store.close()

    def entry(self, id: str, owner: Key) -> Entry:
        """A job of this owner; others' don't exist for them."""
        try:
            entry = self.store[id]
        except KeyError:
            entry = None
        if entry is None or entry.owner != owner.name:
            raise Refused(404, "there is no such job: it may have been removed")
        return entry

    def status(self, entry: Entry) -> dict[str, Any]:
        """A job, as clients see it."""
        live = self.dispatcher.live(entry.id) if entry.state == "running" else None
        if entry.state == "running" and live is None:  # it has just ended, or just been taken
            with suppress(KeyError):
                entry = self.store[entry.id]
            live = Live()
        told: dict[str, Any] = {
            "id": entry.id,
            "state": entry.state,
            "created": entry.created,
            "started": entry.started,
            "ended": entry.ended,
            "attempts": entry.attempts,
            "settings": {name: value for name, value in entry.asked.items() if name != "files"},
            "files": entry.asked.get("files"),
            "error": entry.error,
            "links": {
                name: f"/v1/jobs/{entry.id}{path}"
                for name, path in (("self", ""), ("events", "/events"), ("result", "/result"))
            },
        }
        if entry.state == "running" and live is not None:
            told["progress"] = {
                "stage": live.stage,
                "done": live.done,
                "total": live.total,
                "unit": live.unit,
                "fraction": round(live.whole.fraction, 4),
                "seconds_left": None if live.whole.seconds_left is None else round(live.whole.seconds_left, 1),
                "warnings": list(live.warnings),
            }
        if entry.state == "queued":
            told["waiting_before"] = self.store.place(entry)
        if entry.summary is not None:
            told["summary"] = {name: value for name, value in entry.summary.items() if name != "output"}
        if entry.state in ENDED and entry.ended is not None and entry.state != "expired":
            told["expires"] = entry.ended + self.settings.keep_seconds
        return told

    def remove(self, entry: Entry) -> None:
        """Stop a job if it runs, and forget it with its files."""
        self.dispatcher.cancel(entry.id)
        deadline = time.monotonic() + REMOVE_SECONDS
        while self.dispatcher.live(entry.id) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.settings.jobs / entry.id, ignore_errors=True)
        self.store.remove(entry.id)
