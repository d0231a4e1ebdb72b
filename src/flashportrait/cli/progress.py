"""Progress of a run as bars and messages."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from flashportrait.cli.console import Console
from flashportrait.job import Progress


class ProgressBars:
    """Takes a run's progress: one bar for each stage that counts something, and its messages; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, Any] = {}

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if progress.message is not None:
            (self._console.warn if progress.level == "warning" else self._console.note)(progress.message)
            return
        if progress.unit == "stage":
            return
        if progress.stage not in self._bars:
            self._bars[progress.stage] = self._console.bar(progress.total, progress.stage, progress.unit)
        bar = self._bars[progress.stage]
        bar.update(progress.done - bar.n)
        if progress.done == progress.total:
            bar.close()

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()
