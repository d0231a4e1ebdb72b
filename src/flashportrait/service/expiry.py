"""Removes what has expired."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

from flashportrait.service.settings import ServiceSettings
from flashportrait.service.store import Store

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
TEMPORARY_SECONDS = 24 * 3600.0
"""After which a worker's temporary file is one that it left."""
FORGET_TIMES = 10
"""An expired job is forgotten after this many times the time that its result was kept."""


class Sweeper:
    """A thread that removes the files of jobs that ended long ago, and what belongs to no job."""

    def __init__(self, settings: ServiceSettings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flashportrait-expiry", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self, now: float | None = None) -> None:
        """Remove what has expired by now."""
        now = time.time() if now is None else now
        keep = self._settings.keep_seconds
        for entry in self._store.in_state("done", "failed", "cancelled"):
            if entry.ended is not None and entry.ended + keep < now:
                shutil.rmtree(self._settings.jobs / entry.id, ignore_errors=True)
                self._store.expire(entry.id)
        for entry in self._store.in_state("expired"):
            if entry.ended is not None and entry.ended + FORGET_TIMES * keep < now:
                self._store.remove(entry.id)
        for folder in self._settings.jobs.iterdir():
            # Of a post that was interrupted; one that is under way is younger.
            if folder.stat().st_mtime + max(keep, 3600) < now and not self._is_known(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        self._sweep_leftovers(now)

    def _sweep_leftovers(self, now: float) -> None:
        """Remove rows of drivers that were used long ago, and temporary files of workers that were killed."""
        data, keep = self._settings.data, self._settings.keep_seconds
        old = [file for file in data.glob("motions/*") if _is_older(file, now - keep)]
        old += [file for file in data.glob("tmp/tmp*") if _is_older(file, now - max(keep, TEMPORARY_SECONDS))]
        for file in old:
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)

    def _is_known(self, id: str) -> bool:
        try:
            self._store[id]
        except KeyError:
            return False
        return True

    def _run(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            try:
                self.sweep()
            except Exception:
                logger.exception("what has expired couldn't be removed")


def _is_older(file: Path, than: float) -> bool:
    try:
        return file.stat().st_mtime < than
    except OSError:  # it has just gone
        return False
