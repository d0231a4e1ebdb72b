"""The folder of all animations made in the studio: each in a folder of its own, unfinished ones too.

    20261126-203501-1f9c/
        portrait.jpg  driver.mp4    as they were uploaded
        poster.png                  the portrait, small
        job.json                    settings, and the names that the files had
        state.json                  what became of it
        result.mp4                  once it is whole; result.mp4.work while it isn't
    motions/                        motion rows of drivers that were read
    rates.json                      how fast this machine was
    uploads/                        of the browser, for a day
    tmp/                            of the processes that run jobs

Each file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError
from flashportrait.job import Job

ENTRY = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
"""Names of entries' folders; nothing else is ever looked up."""
ENDING = re.compile(r"\.[A-Za-z0-9]{1,11}")
"""Endings that uploaded files keep."""

UPLOADS_SECONDS = 86_400.0
"""How long uploads stay for pages that are open."""

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
INTERRUPTED = "interrupted"
"""Of an entry that was waiting or running when the studio ended."""

OPEN = (WAITING, RUNNING)
UNFINISHED = (CANCELLED, INTERRUPTED, FAILED)
"""States from which an entry can go on."""


@dataclass(frozen=True)
class Entry:
    """One animation, as its folder has it."""

    folder: Path
    portrait: str
    """Name of the portrait's file in the folder."""
    driver: str
    settings: dict[str, Any]
    """Those of a job that were given."""
    names: dict[str, str] = field(default_factory=dict)
    """What ``portrait`` and ``driver`` were called by who brought them."""
    state: str = WAITING
    error: str | None = None
    """One line, of an entry that failed."""
    summary: dict[str, Any] | None = None
    """Of the run, as ``flashportrait animate --json`` has it."""

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def output(self) -> Path:
        """Where the result is, or will be."""
        return self.folder / "result.mp4"

    @property
    def poster(self) -> Path:
        """The portrait, small."""
        return self.folder / "poster.png"

    @property
    def created(self) -> str:
        """When, in words: ``26 Nov 2026, 20:35``."""
        made = time.strptime(self.id[:15], "%Y%m%d-%H%M%S")
        return f"{made.tm_mday} {time.strftime('%b %Y, %H:%M', made)}"

    @property
    def can_resume(self) -> bool:
        """Whether it has stopped without a result."""
        return self.state in UNFINISHED

    def job(self) -> Job:
        """What is run.

        Raises:
            JobError: settings that can't be honoured.
        """
        files = {"portrait": self.folder / self.portrait, "driving": self.folder / self.driver, "output": self.output}
        return Job.from_dict({**self.settings, **files})


class History:
    """Entries in a folder, which is made if it isn't there.

    Args:
        folder: of all entries.
        keep: how many to keep; when another comes, the oldest finished one goes.

    Raises:
        UserError: the folder can't be written.
    """

    def __init__(self, folder: Path, keep: int = 100) -> None:
        self.folder, self.keep = folder.absolute(), keep
        self.uploads = self.folder / "uploads"
        self.motions = self.folder / "motions"
        self.temporary = self.folder / "tmp"
        self._lock = threading.RLock()
        self._unwritten: dict[str, dict[str, Any]] = {}
        try:
            for each in (self.folder, self.uploads, self.motions, self.temporary):
                each.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the folder '{self.folder}' can't be made ({error.strerror}): give another with --folder"
            ) from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"the folder '{self.folder}' can't be written to: give another with --folder")

    def add(
        self, portrait: Path, driver: Path, settings: Mapping[str, Any], names: Mapping[str, str], poster: bytes = b""
    ) -> Entry:
        """A new entry, waiting, with copies of its files.

        Raises:
            JobError: settings that can't be honoured; nothing is left then.
            UserError: the disk is full.
        """
        folder = self._new_folder()
        entry = Entry(folder, f"portrait{_ending(portrait)}", f"driver{_ending(driver)}", dict(settings), dict(names))
        try:
            entry.job()
            _copy(portrait, folder / entry.portrait)
            _copy(driver, folder / entry.driver)
            if poster:
                entry.poster.write_bytes(poster)
            about = {name: getattr(entry, name) for name in ("portrait", "driver", "settings", "names")}
            _write(folder / "job.json", about)
            _write(folder / "state.json", {"state": WAITING})
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"'{self.folder}' can't be written ({error.strerror}): make room, or delete animations from the history"
            ) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.prune()
        return entry

    def get(self, name: str | None) -> Entry | None:
        """The entry of this name; None where there is none (any longer)."""
        if name is None or not ENTRY.fullmatch(name):
            return None
        folder = self.folder / name
        about = _read(folder / "job.json")
        state = self._unwritten.get(name) or _read(folder / "state.json")
        if about is None or state is None:
            return None
        try:
            return Entry(folder, **about, **state)
        except TypeError:  # written by another version
            return None

    def entries(self) -> list[Entry]:
        """All of them, the newest first."""
        found = (self.get(path.name) for path in self.folder.iterdir())
        return sorted((entry for entry in found if entry), key=lambda entry: entry.id, reverse=True)

    def mark(self, name: str, state: str, error: str | None = None, summary: Mapping[str, Any] | None = None) -> None:
        """Note what has become of an entry; one that is gone stays so.

        On a full disk it is noted for as long as the program runs.
        """
        value = {"state": state, "error": error, "summary": dict(summary) if summary else None}
        with self._lock:
            if self.get(name) is None:
                return
            try:
                _write(self.folder / name / "state.json", value)
                self._unwritten.pop(name, None)
            except OSError:
                self._unwritten[name] = value

    def interrupt(self) -> list[Entry]:
        """Note of entries that were open when a studio ended that they are interrupted; returns all that are."""
        for entry in self.entries():
            if entry.state in OPEN:
                self.mark(entry.id, DONE if entry.output.is_file() else INTERRUPTED)
        return [entry for entry in self.entries() if entry.state == INTERRUPTED]

    def clean(self) -> None:
        """Remove uploads and temporary files that are a day old: what of them counts is in entries."""
        oldest = time.time() - UPLOADS_SECONDS
        for folder in (self.uploads, self.temporary):
            for path in folder.iterdir():
                if path.lstat().st_mtime > oldest:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove an entry with all its files.

        Raises:
            UserError: it is waiting or running.
        """
        with self._lock:
            entry = self.get(name)
            if entry is None:
                return
            if entry.state in OPEN:
                raise UserError("this animation is still being made: cancel it first")
            shutil.rmtree(entry.folder, ignore_errors=True)

    def prune(self) -> None:
        """Remove the oldest that have ended, as far as there are more than are to be kept."""
        with self._lock:
            entries = self.entries()
            ended = [entry for entry in entries if entry.state not in OPEN]
            for entry in ended[max(0, self.keep - (len(entries) - len(ended))) :]:
                self.delete(entry.id)

    def _new_folder(self) -> Path:
        while True:
            folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"'{self.folder}' can't be written ({error.strerror}): make room there") from error
            return folder


def _ending(path: Path) -> str:
    return path.suffix.lower() if ENDING.fullmatch(path.suffix) else ""


def _copy(source: Path, target: Path) -> None:
    """Without taking room twice where that can be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
    os.replace(part, path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
