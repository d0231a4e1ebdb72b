"""How a batch knows that a job is finished: beside each result lies a record of what it was made from.

The record of ``out/clip.mp4`` is ``out/.flashportrait/clip.mp4.json``. A job is finished if its output is there, as
many bytes as recorded, and settings and content of its inputs are those of the record. A changed portrait, driver or
setting makes the job due again; a moved or renamed input does not.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from flashportrait.batch import storage
from flashportrait.batch.task import Task
from flashportrait.errors import UserError
from flashportrait.files import sha256_of

FOLDER = ".flashportrait"
"""Where records lie, beside the outputs."""
NOT_COMPARED = ("portrait", "driving", "output", "lora", "keep_work", "restart", "threads", "device", "offload")
"""Settings that don't make a finished job due again: files count by their content, the others don't decide frames."""


def is_finished(task: Task) -> bool:
    """Whether the task's output is there, and was made from the same settings and inputs."""
    try:
        record = json.loads(storage.read_text(_place(task)))
        return record == {**describe(task), "bytes": _size(task)}
    except (OSError, ValueError):
        return False


def describe(task: Task) -> dict[str, Any]:
    """What a task's result is made from, to be recorded once it is there.

    Raises:
        UserError: an input can't be read.
    """
    settings = {name: value for name, value in task.job.to_dict().items() if name not in NOT_COMPARED}
    return {
        "settings": settings,
        "portrait": _identity(task, "portrait"),
        "driving": _identity(task, "driving"),
        "lora": [_digest(file) for file in task.job.lora],
    }


def note_finished(task: Task, description: dict[str, Any]) -> None:
    """Record that the task's output is there, and was made from what :func:`describe` gave before."""
    storage.write_text(_place(task), json.dumps({**description, "bytes": _size(task)}, indent=1))


def _size(task: Task) -> int:
    return storage.size(task.output) if "output" in task.remote else task.job.output.stat().st_size


def _place(task: Task) -> str:
    """The record's path or address."""
    folder, _, name = task.output.replace(os.sep, "/").rpartition("/")
    return f"{folder}/{FOLDER}/{name}.json"


def _identity(task: Task, name: str) -> str:
    address = task.remote.get(name)
    return _digest(getattr(task.job, name)) if address is None else storage.identity(address)


def _digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    try:
        status = file.stat()
        return _digest_of(file, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"'{file}' can't be read ({error.strerror or error}): check the path") from error


@functools.lru_cache(maxsize=4096)
def _digest_of(file: Path, changed: int, size: int) -> str:
    return sha256_of(file)
