"""Fields of a job: how each is read from Python, JSON, CSV or a command line, and what its help says.

Light enough to be imported for ``--help``: what needs a library is imported when a value is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

Read = Callable[[Any], Any]
"""A value as given (JSON's types, text, or Python's own) -> the value that a job holds; ``ValueError`` says what is
needed instead."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

WORDS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
"""How tables spell whether something holds."""

LABEL = "AI-generated"
"""The usual words of a visible label."""


@dataclass(frozen=True)
class Setting:
    """What a shell needs to know to offer a field."""

    name: str
    read: Read
    group: str
    """Title under which it is shown."""
    help: str
    """One line, with unit and range."""
    metavar: str | None
    choices: tuple[str, ...]
    """The values there are, where they are few."""
    bounds: tuple[float, float] | None
    """Least and greatest of a number that has both."""
    default: Any
    required: bool
    bare: Any = None
    """What its option means without a value; None where it needs one."""

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.read is switch

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return self.read is paths


def setting(
    read: Read,
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    group: str = "",
    metavar: str | None = None,
    bare: Any = None,
) -> Any:
    """A dataclass field that knows how it is read, and its help; the arguments are those of ``Setting``."""
    metadata = {"read": read, "help": help, "group": group, "metavar": metavar, "bare": bare}
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(kind: type) -> dict[str, Setting]:
    """All fields of a dataclass made with ``setting``, by name."""
    return {
        field.name: Setting(
            name=field.name,
            read=field.metadata["read"],
            group=field.metadata["group"],
            help=field.metadata["help"],
            metavar=field.metadata["metavar"],
            choices=field.metadata["read"].choices if isinstance(field.metadata["read"], Choice) else (),
            bounds=field.metadata["read"].bounds if isinstance(field.metadata["read"], Number) else None,
            default=None if field.default is dataclasses.MISSING else field.default,
            required=field.default is dataclasses.MISSING,
            bare=field.metadata["bare"],
        )
        for field in dataclasses.fields(kind)
    }


def path(value: Any) -> Path:
    """A file's path."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise ValueError("give the path of a file")
    return Path(value)


def paths(value: Any) -> tuple[Path, ...]:
    """Several paths: a list, or text in which a semicolon parts them."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";") if part.strip()]
    if isinstance(value, Path):
        value = [value]
    if not isinstance(value, Iterable):
        raise ValueError("give a list of paths")
    return tuple(path(item) for item in value)


def text(value: Any) -> str:
    """Words, as they are."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ValueError("give text")
    return str(value)


def switch(value: Any) -> bool:
    """On or off."""
    known = value if isinstance(value, bool) else WORDS.get(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError("give true or false")
    return known


def whole(least: int, most: int | None = None, bounds: str | None = None) -> Read:
    """A whole number within bounds; ``bounds`` puts them in words."""
    needed = f"give a whole number {bounds or _bounds(least, most)}"

    def read(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(needed) from None
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not _within(number, least, most):
            raise ValueError(needed)
        return number

    return read


@dataclass(frozen=True)
class Number:
    """Reads a finite number within bounds, which may be None."""

    least: float | None
    most: float | None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Both, where there are both."""
        return None if self.least is None or self.most is None else (self.least, self.most)

    def __call__(self, value: Any) -> float:
        try:
            given = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            given = math.nan
        if not math.isfinite(given) or not _within(given, self.least, self.most):
            raise ValueError(f"give a number {_bounds(self.least, self.most)}".rstrip())
        return given


def number(least: float | None = None, most: float | None = None) -> Number:
    """A finite number within bounds."""
    return Number(least, most)


@dataclass(frozen=True)
class Choice:
    """Reads one of a few words."""

    choices: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        if value not in self.choices:
            raise ValueError(f"choose {', '.join(self.choices[:-1])} or {self.choices[-1]}")
        return value


def choice(*choices: str) -> Choice:
    """One of a few words."""
    return Choice(choices)


def box(value: Any) -> Box:
    """Four numbers from 0 up, text or a list: left, top, right, bottom."""
    needed = "give X0,Y0,X1,Y1 in pixels, from 0, with X0 < X1 and Y0 < Y1"
    parts = value.split(",") if isinstance(value, str) else value
    try:
        x0, y0, x1, y1 = map(number(0), parts)
    except (TypeError, ValueError):
        raise ValueError(needed) from None
    if not (x0 < x1 and y0 < y1):
        raise ValueError(needed)
    return x0, y0, x1, y1


def trim(value: Any) -> str:
    """A part of a clip, as ``Trim.parse`` reads it."""
    from flashportrait.media.timing import Trim

    Trim.parse(text(value))
    return str(value)


def rate(value: Any) -> Fraction:
    """Frames per second, exact."""
    from flashportrait.media.timing import parse_rate

    if isinstance(value, bool) or not isinstance(value, (str, int, float, Fraction)):
        raise ValueError("give a number, or a fraction such as 30000/1001")
    return parse_rate(value)


def predictor(value: Any) -> str:
    """A predictor in words, as ``parse_predictor`` reads it."""
    from flashportrait.sampling.speed import parse_predictor

    parse_predictor(text(value))
    return str(value)


def label(value: Any) -> str:
    """Words of a visible label, which the font must have; true means the usual ones."""
    from flashportrait.marking.label import Label

    return Label(LABEL if value is True else text(value)).text


def describe(value: Any) -> str:
    """A value that was refused, short enough for a line."""
    shown = repr(value) if not isinstance(value, (Path, Fraction)) else f"'{value}'"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f"up to {most:g}"
    return f"from {least:g} up" if most is None else f"from {least:g} to {most:g}"
