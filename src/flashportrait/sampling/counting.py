"""Telling how far sampling is: steps, and those of them at which the network ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Told = Callable[[str, int, "int | None"], object]
"""``told(stage, done, total)``."""


class StepCount:
    """Counts the steps of all windows, and tells of them: ``passes``, the computed ones, then ``denoise``, all.

    Args:
        told: whom.
        windows: of the clip.
        steps: of each.
        planned: steps at which each is computed; None where a tolerance chooses them.
    """

    def __init__(self, told: Told, windows: int, steps: int, planned: Sequence[int] | None) -> None:
        self._told, self._planned = told, planned
        self._total = windows * steps
        self._passes = None if planned is None else windows * len(planned)
        self._done = self._computed = 0

    def begin(self, taken: Sequence[int]) -> None:
        """Start from how many windows have taken each step: some, in a run that goes on."""
        self._done, self._computed = sum(taken), sum(taken[step] for step in self._planned or ())
        self._tell()

    def step(self, *, computed: bool) -> None:
        """A window has taken a step."""
        self._done += 1
        self._computed += computed
        self._tell()

    def _tell(self) -> None:
        self._told("passes", self._computed, self._passes)
        self._told("denoise", self._done, self._total)
