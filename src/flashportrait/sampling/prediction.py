"""One run of a predictor: what the sampler holds on to, one stream a window."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flashportrait.errors import UserError


class WindowPrediction(Protocol):
    """What a predictor keeps of one window."""

    def is_full(self, step: int) -> bool:
        """Whether this step is to be computed."""
        ...

    def observe(self, step: int, velocity: Tensor) -> Tensor:
        """Takes in a computed velocity and returns the one to step along."""
        ...

    def predict(self, step: int) -> Tensor:
        """The velocity to step along where none is computed."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What is kept."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors by name, and everything else as plain data."""
        ...

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes over what ``state`` returned."""
        ...


@dataclass
class PredictionStats:
    """What a run computed and predicted."""

    full_steps: dict[int | str, list[int]] = field(default_factory=dict)
    """The computed steps of each window (inside the network: of each cache context)."""
    predicted: dict[int | str, int] = field(default_factory=dict)
    """The number of predicted steps of each."""
    peak_bytes: int = 0
    """Most memory that histories took at once."""

    @property
    def computed(self) -> dict[int | str, int]:
        """The number of computed steps of each."""
        return {window: len(steps) for window, steps in self.full_steps.items()}


class PredictionState:
    """One run's state. Deterministic: the same velocities give the same decisions.

    Args:
        begin: makes the state of a window; None computes every step.
        signature: of predictor and schedule: a saved state is taken only by a run with the same one.
        device: of the velocities; a saved state is moved there.
    """

    def __init__(
        self,
        begin: Callable[[], WindowPrediction] | None,
        signature: Sequence[Any],
        device: torch.device | str | None = None,
    ):
        self.stats = PredictionStats()
        self._begin = begin
        # As it comes back from a file: JSON knows no tuples.
        self._signature = json.loads(json.dumps(signature))
        self._device = device
        self._windows: dict[int, WindowPrediction] = {}

    def step(self, window_index: int, step_index: int, compute: Callable[[], Tensor]) -> Tensor:
        """The velocity of a window at a step, by ``compute()`` or by prediction."""
        if self._begin is None:
            self._count_full(window_index, step_index)
            return compute()
        if window_index not in self._windows:
            self._windows[window_index] = self._begin()
        window = self._windows[window_index]
        if window.is_full(step_index):
            self._count_full(window_index, step_index)
            velocity = window.observe(step_index, compute())
        else:
            self.stats.predicted[window_index] = self.stats.predicted.get(window_index, 0) + 1
            velocity = window.predict(step_index)
        self.stats.peak_bytes = max(self.stats.peak_bytes, self.memory_bytes)
        return velocity

    def is_full(self, window_index: int, step_index: int) -> bool:
        """Whether :meth:`step` will compute this step of a window, which must be its next one."""
        window = self._windows.get(window_index)
        if self._begin is None or window is None:
            return self._begin is None or step_index == 0
        return window.is_full(step_index)

    def finish(self, window_index: int) -> None:
        """Frees a window's history; its counts stay."""
        self._windows.pop(window_index, None)

    @property
    def memory_bytes(self) -> int:
        """What the histories take now."""
        return sum(window.memory_bytes for window in self._windows.values())

    def state_dict(self) -> dict[str, Any]:
        """``tensors``: by flat name; ``plain``: everything else, fit for JSON."""
        tensors: dict[str, Tensor] = {}
        windows: dict[str, Any] = {}
        for index, window in self._windows.items():
            window_tensors, windows[str(index)] = window.state()
            tensors |= {f"{index}.{name}": tensor for name, tensor in window_tensors.items()}
        plain = {
            "signature": self._signature,
            "full_steps": {str(index): steps for index, steps in self.stats.full_steps.items()},
            "predicted": {str(index): count for index, count in self.stats.predicted.items()},
            "peak_bytes": self.stats.peak_bytes,
            "windows": windows,
        }
        return {"tensors": tensors, "plain": plain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the run that ``state_dict`` was taken from.

        Raises:
            UserError: that run had another schedule or another predictor.
        """
        plain, tensors = state["plain"], state["tensors"]
        if plain["signature"] != self._signature:
            raise UserError("the saved prediction state is of another predictor or schedule; resume with the same ones")
        self.stats = PredictionStats(
            {int(index): list(steps) for index, steps in plain["full_steps"].items()},
            {int(index): count for index, count in plain["predicted"].items()},
            plain["peak_bytes"],
        )
        self._windows = {}
        for index, window_plain in plain["windows"].items():
            assert self._begin is not None
            prefix = f"{index}."
            own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            self._windows[int(index)] = self._begin()
            self._windows[int(index)].load(
                {name.removeprefix(prefix): tensor.to(self._device) for name, tensor in own.items()}, window_plain
            )

    def _count_full(self, window_index: int, step_index: int) -> None:
        self.stats.full_steps.setdefault(window_index, []).append(step_index)
