"""Options that several commands share; those of a job are made from its fields."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from flashportrait.errors import UserError
from flashportrait.job import Job, JobError, Setting, read_settings


def add_console_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    group = parser.add_argument_group("messages")
    group.add_argument("--quiet", "-q", action="store_true", help="silence all but errors")
    if "--json" not in parser._option_string_actions:  # a command may have one of its own, which takes a file
        group.add_argument("--json", action="store_true", help="print one JSON object on stdout at the end")
    group.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' messages")


def add_settings(
    parser: argparse.ArgumentParser,
    *,
    only: Sequence[str] | None = None,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
) -> None:
    """Add a job's settings, in their groups. Their text is read later, by ``given_settings``.

    Args:
        parser: of the command.
        only: names of those to add; all unless given.
        positional: names of those that are given without an option.
        short: another option for some, by name.
    """
    groups: dict[str, Any] = {"": parser}
    for name, entry in Job.settings().items():
        if only is not None and name not in only:
            continue
        if entry.group not in groups:
            groups[entry.group] = parser.add_argument_group(entry.group)
        if name in positional:
            parser.add_argument(name, metavar=entry.metavar, help=entry.help)
        else:
            flags = [*([short[name]] if short and name in short else []), entry.flag]
            groups[entry.group].add_argument(*flags, **_option(entry))


def _option(entry: Setting) -> dict[str, Any]:
    """How argparse is told of a setting; one that isn't given is not there."""
    common: dict[str, Any] = {"help": entry.help, "default": argparse.SUPPRESS, "dest": entry.name}
    if entry.is_switch:
        return {**common, "action": "store_true" if entry.default is False else argparse.BooleanOptionalAction}
    if entry.is_list:
        return {**common, "action": "append", "metavar": entry.metavar}
    if entry.bare is not None:
        common |= {"nargs": "?", "const": entry.bare}
    return {**common, "metavar": entry.metavar, "choices": entry.choices or None, "required": entry.required}


def given_settings(args: argparse.Namespace) -> Job:
    """The job that the options describe.

    Raises:
        UserError: values that can't be honoured, all of them, by the options' names.
    """
    known = Job.settings()
    try:
        return Job(**{name: value for name, value in vars(args).items() if name in known})
    except JobError as error:
        raise by_option(error) from error


def chosen_settings(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Some of a job's settings, None where they are not given.

    Raises:
        UserError: values that can't be honoured, all of them, by the options' names.
    """
    values, problems = read_settings({name: getattr(args, name, None) for name in names})
    if problems:
        raise by_option(JobError(problems))
    return values


def by_option(error: JobError) -> UserError:
    """The same problems with the names as they are typed."""
    known = Job.settings()
    lines = [
        line.replace(name, known[name].flag, 1) if name in known and line.startswith(name) else line
        for name, line in error.problems.items()
    ]
    return UserError("; ".join(lines))


def table(rows: Sequence[Sequence[Any]], headings: Sequence[str]) -> str:
    """Rows of text in aligned columns under their headings."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)
