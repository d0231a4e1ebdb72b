"""Independent evaluations of one run, shared with helpers elsewhere.

The run takes them up from the front as it needs their results, each helper from the back whenever it has nothing to do.
So the slower ones do less, and a helper that fails costs no more than the evaluation it had, which is done again here.
Who evaluates what doesn't change the numbers, if all compute alike.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

Evaluate = Callable[[Mapping[str, Any]], Tensor]
"""Inputs of a network by name -> its output. A helper's is called without inputs first, to get ready, and raises
whatever it likes when it can't go on."""


class _Pass:
    """One evaluation: taken up here when its output is needed, unless a helper was faster."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs
        self.output: Tensor | None = None


class HelpedPasses:
    """Shares evaluations between this thread and helpers, which each have a thread that waits for them.

    Args:
        here: evaluates in the run's own thread.
        helpers: evaluate elsewhere.
        device: where outputs are wanted.
    """

    def __init__(self, here: Evaluate, helpers: Sequence[Evaluate], device: torch.device | str = "cpu") -> None:
        self._here, self._device = here, device
        self._waiting: deque[_Pass] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.helped = 0
        """Evaluations that helpers did."""
        for helper in helpers:
            threading.Thread(target=self._work, args=(helper,), daemon=True, name="helper").start()

    def __call__(self, passes: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The network's output for each, in order."""
        items = [_Pass(inputs) for inputs in passes]
        with self._changed:
            self._waiting.extend(items)
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or all(item.output is not None for item in items))
                if not self._waiting:
                    return [item.output for item in items if item.output is not None]
                mine = self._waiting.popleft()
            mine.output = self._here(mine.inputs)

    def close(self) -> None:
        """Let helpers go; what they are at is dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self, helper: Evaluate) -> None:
        with suppress(Exception):  # then the first evaluation fails as well
            helper({})
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                item = self._waiting.pop()
            try:
                output = helper(item.inputs).to(self._device)
            except Exception:  # noqa: BLE001 - whatever it is: the evaluation is done elsewhere
                with self._changed:
                    self._waiting.appendleft(item)
                    self._changed.notify_all()
                return
            with self._changed:
                item.output = output
                self.helped += 1
                self._changed.notify_all()
