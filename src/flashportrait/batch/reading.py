"""Jobs as data: rows of settings from CSV, JSON or YAML, or from lists of portraits and drivers."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from flashportrait.batch.storage import is_address, matching
from flashportrait.errors import UserError


@dataclass(frozen=True)
class Row:
    """Settings of one job as they were written, not yet read."""

    source: str
    """Where: ``jobs.csv:3``."""
    values: dict[str, Any]
    problem: str | None = None
    """What keeps it from being settings at all."""


def read_jobs(path: Path) -> list[Row]:
    """Rows of a jobs file, by its ending: .csv, .jsonl or .ndjson (an object a line), .json (a list) or .yaml.

    Raises:
        UserError: the file can't be read, is of no such kind, or holds no jobs.
    """
    readers: dict[str, Callable[[Path, str], Iterator[Row]]] = {
        ".csv": _csv_rows,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_list,
        ".yaml": _yaml_rows,
        ".yml": _yaml_rows,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"'{path}' is no kind of jobs file: end its name in {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no jobs file '{path}'") from None
    except OSError as error:
        raise UserError(f"the jobs file '{path}' can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise UserError(f"the jobs file '{path}' isn't text in UTF-8: save it so") from None
    rows = list(reader(path, text))
    if not rows:
        raise UserError(f"the jobs file '{path}' holds no jobs: give a row for each")
    return rows


def pair_jobs(portraits: Sequence[str], drivings: Sequence[str], folder: str) -> list[Row]:
    """A row for each portrait with each driver. Results are named after what there is more than one of.

    Args:
        portraits, drivings: paths, patterns such as ``a/*.jpg``, or addresses.
        folder: where results go; a path or an address.

    Raises:
        UserError: a pattern that no file matches.
    """
    faces, clips = expand(portraits, "portraits"), expand(drivings, "drivings")
    rows = []
    for face, clip in product(faces, clips):
        named = [file for file, several in ((face, len(faces) > 1), (clip, len(clips) > 1)) if several] or [face]
        name = "-".join(PurePosixPath(Path(file).as_posix()).stem for file in named)
        values = {"portrait": face, "driving": clip, "output": f"{folder.rstrip('/') or '/'}/{name}.mp4"}
        rows.append(Row(f"{face} with {clip}", values))
    return rows


def expand(patterns: Sequence[str], name: str) -> list[str]:
    """Files that match any of the patterns, in order, each once; an address without ``*`` stands for itself.

    Raises:
        UserError: a pattern that no file matches, or storage that can't be reached.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if is_address(pattern):
            matches = matching(pattern) if "*" in pattern else [pattern]
        else:
            matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"no file matches --{name} '{pattern}'")
        found.update(dict.fromkeys(matches))
    return list(found)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    lines = csv.reader(text.splitlines(keepends=True), strict=True)
    heading: list[str] | None = None
    end = 0
    try:
        for cells in lines:
            start, end = end + 1, lines.line_num
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell.strip() for cell in cells]
            if heading is None:
                heading = cells
                if twice := sorted({name for name in heading if heading.count(name) > 1}):
                    raise UserError(f"{path.name}:{start}: two columns are named {', '.join(map(repr, twice))}")
                continue
            source, extra = f"{path.name}:{start}", cells[len(heading) :]
            problem = None
            if any(extra):
                problem = f"{len(cells)} values, but {len(heading)} columns: put values with commas in double quotes"
            yield Row(source, dict(zip(heading, cells, strict=False)), problem)
    except csv.Error as error:
        raise UserError(f"{path.name}:{lines.line_num}: no CSV ({error})") from error


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        source = f"{path.name}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            yield Row(source, {}, f"no JSON ({error})")
            continue
        yield _object(source, values)


def _json_list(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path.name}: no JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path.name} holds no list: give [{{...}}, {{...}}], or one object a line as .jsonl")
    for number, values in enumerate(rows, 1):
        yield _object(f"{path.name}: job {number}", values)


def _yaml_rows(path: Path, text: str) -> Iterator[Row]:
    """Scalars are kept as they are written, as in a table: YAML's own reading makes 127 of the trim 2:7."""
    import yaml

    loader = yaml.BaseLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise UserError(f"{path.name} holds no list: begin each job with '- portrait: ...'")
        for node in root.value:
            yield _object(f"{path.name}:{node.start_mark.line + 1}", loader.construct_object(node, deep=True))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise UserError(f"{path.name}{line}: no YAML ({getattr(error, 'problem', None) or error})") from error
    finally:
        loader.dispose()


def _object(source: str, values: Any) -> Row:
    if not isinstance(values, dict):
        return Row(source, {}, "no settings by name: give an object such as portrait, driving, output")
    return Row(source, {name: None if value in ("null", "~") else value for name, value in values.items()})
