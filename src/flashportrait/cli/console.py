"""What the person at the keyboard sees: progress, warnings and errors on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_SOUND = 3
"""Exit code of a run whose video is whole but lacks sound of the driver, which failed."""

PROGRESS_DELAY_SECONDS = 1.0
"""Work that ends sooner shows no bar."""


class Console:
    """Messages of one command.

    Args:
        quiet: silence all but errors and results.
        as_json: results are one JSON object on stdout.
        debug: show tracebacks, and what the libraries say.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False, debug: bool = False):
        self.quiet = quiet
        self.as_json = as_json
        self.debug = debug
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Show a warning, once, and keep it for the JSON summary."""
        if message not in self.warnings:
            self.warnings.append(message)
            if not self.quiet:
                self._say(f"warning: {message}")

    def note(self, message: str) -> None:
        """Show a line of information, unless quiet."""
        if not self.quiet:
            self._say(message)

    def error(self, message: str) -> None:
        """Show an error, on one line."""
        self._say(f"error: {' '.join(message.split())}")

    def result(self, summary: dict[str, Any], text: str) -> None:
        """Print a command's result: `summary` as JSON if asked for, else `text`, which quiet silences."""
        if self.as_json:
            print(json.dumps({**summary, "warnings": self.warnings}, ensure_ascii=False, default=str))
        elif not self.quiet:
            print(text)

    def bar(self, total: int | None, description: str, unit: str = "frames") -> Any:
        """A progress bar (a context manager with ``update(n)``) that shows only if the work takes a while."""
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=description,
            unit=f" {unit}",
            delay=PROGRESS_DELAY_SECONDS,
            disable=self.quiet,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Show our own log messages as warnings, and silence the libraries' unless debugging."""
        handler = _WarningHandler(self)
        logger = logging.getLogger("flashportrait")
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        try:
            with warnings.catch_warnings():
                if not self.debug:
                    warnings.simplefilter("ignore")
                    for library in ("DIFFUSERS", "TRANSFORMERS"):
                        os.environ.setdefault(f"{library}_VERBOSITY", "error")
                yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate

    def _say(self, line: str) -> None:
        if tqdm := sys.modules.get("tqdm"):
            # Lifts a bar that is on the screen out of the way.
            tqdm.tqdm.write(f"flashportrait: {line}", file=sys.stderr)
        else:
            print(f"flashportrait: {line}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """``0:42``, ``12:05``, ``1:00:00``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _WarningHandler(logging.Handler):
    """Hands log records of weight to the console."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.warn(record.getMessage())
