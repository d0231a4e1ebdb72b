"""A batch is checked as a whole before the first job starts: settings, files, and outputs that two jobs would write."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashportrait.batch import storage
from flashportrait.batch.reading import Row
from flashportrait.batch.task import FILES, Task
from flashportrait.errors import UserError
from flashportrait.job import MODELS, Job, JobError
from flashportrait.job.fields import path, paths
from flashportrait.job.opening import open_inputs


class BatchError(UserError):
    """Jobs with mistakes. ``problems`` has all of them, each with the place where it was made."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


def check_jobs(rows: Sequence[Row], common: Mapping[str, Any], base: Path) -> list[Task]:
    """Tasks from rows, all settings read and all files looked at, without loading a model.

    Args:
        rows: what was asked for.
        common: settings of all rows that don't say otherwise.
        base: folder from which the rows' paths start; those of ``common`` start from the current one.

    Raises:
        BatchError: all mistakes there are.
    """
    tasks: list[Task] = []
    problems: dict[str, list[str]] = {}
    writers: dict[str, str] = {}
    for row in rows:
        found, task = _read(row, common, base, len(tasks))
        if task is not None:
            other = writers.setdefault(_place(task), row.source)
            if other != row.source:
                found.append(f"{task.output} is written by {other} already: give another output")
            else:
                try:
                    task = _opened(task)
                except UserError as error:
                    found.append(str(error))
            tasks.append(task)
        for problem in found:
            problems.setdefault(problem, []).append(row.source)
    if problems:
        raise BatchError([f"{_places(sources)}: {problem}" for problem, sources in problems.items()])
    return tasks


def _places(sources: Sequence[str]) -> str:
    """Where the same mistake was made; a misspelt column is one in every row."""
    return sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def _read(row: Row, common: Mapping[str, Any], base: Path, index: int) -> tuple[list[str], Task | None]:
    """The task of a row; or what is wrong with its settings."""
    if row.problem is not None:
        return [row.problem], None
    own = {name: value for name, value in row.values.items() if value is not None and value != ""}
    own = {name: _from(base, name, value) for name, value in own.items()}
    values = {**common, **own}
    remote = {name: values[name] for name in FILES if storage.is_address(values.get(name))}
    local = {name: storage.scratch(address) for name, address in remote.items()}
    try:
        return [], Task(index, row.source, Job.from_dict({**values, **local}).absolute(), remote)
    except JobError as error:
        return list(error.problems.values()), None


def _from(base: Path, name: str, value: Any) -> Any:
    """A path of a row, starting from ``base``; other values as they are."""
    if storage.is_address(value):
        return value
    reader = Job.settings()[name].read if name in Job.settings() else None
    if reader is path and isinstance(value, (str, Path)):
        return base / value
    if name == "model" and isinstance(value, str) and value not in MODELS and (base / value).is_dir():
        return str(base / value)
    if reader is paths:
        parts = value.split(";") if isinstance(value, str) else value
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return [str(base / part.strip()) for part in parts if part.strip()]
    return value


def _place(task: Task) -> str:
    """Where a task writes, by one name however it was spelt."""
    return task.remote["output"] if "output" in task.remote else str(task.job.output.resolve())


def _opened(task: Task) -> Task:
    """The task with its number of frames, after a look at its files. Those elsewhere need only be there.

    Raises:
        UserError: the first thing that is wrong.
    """
    for name, address in task.remote.items():
        if name != "output" and not storage.exists(address):
            raise UserError(f"there is no file '{address}'")
    if task.remote.keys() - {"output"}:
        return task
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / task.job.output.name if "output" in task.remote else task.job.output
        return replace(task, frames=len(open_inputs(replace(task.job, output=output)).driving))
