"""Progress of a run as bars and messages."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from flashportrait.cli.console import Console, clock
from flashportrait.job import Progress

WHOLE_RUN = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
"""A bar's form where the time left is that of the whole run, which the bar's own count can't tell."""


class ProgressBars:
    """Takes a run's progress: one bar for each stage that counts something, and its messages; a context manager.

    While it samples and writes, one of them says how much time is left in all.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, Any] = {}
        self._saying: Any = None

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if progress.message is not None:
            (self._console.warn if progress.level == "warning" else self._console.note)(progress.message)
            return
        if progress.unit == "stage":
            return
        if progress.stage not in self._bars:
            self._bars[progress.stage] = self._console.bar(progress.total, progress.stage, progress.unit)
            if progress.of_whole_run:
                self._bars[progress.stage].bar_format = WHOLE_RUN
        bar = self._bars[progress.stage]
        if progress.of_whole_run and progress.seconds_left is not None:
            saying = self._saying or bar
            saying.set_postfix_str(f"about {clock(progress.seconds_left)} left", refresh=False)
            saying.update(0)
            self._saying = saying
        bar.update(progress.done - bar.n)
        if progress.done == progress.total:
            bar.set_postfix_str("", refresh=False)
            bar.close()
            self._saying = None if bar is self._saying else self._saying

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()
