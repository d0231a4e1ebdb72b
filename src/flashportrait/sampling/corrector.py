"""Making good, at a computed step, what the predictions before it got wrong, without another call.

Between two computed steps the velocity is extrapolated. Once the second is computed it could have been interpolated;
the difference between the two, integrated over the gap, is how far the latents are off. Adding it to the step that
follows is the corrector of a predictor-corrector pair (PEC mode) of multistep ODE solvers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flashportrait.sampling.extrapolation import combine, newton_terms, weighted_sum


class Corrector:
    """Of one window's velocity, for solvers that step along the velocity they are given: ``x += dsigma v``.

    Args:
        x: coordinate of each step.
        dsigma: change of sigma in each step.
    """

    def __init__(self, x: Sequence[float], dsigma: Sequence[float]):
        self._x = x
        self._dsigma = dsigma
        self._skipped: list[int] = []
        self._moved: Tensor | None = None

    def note_predicted(self, step: int, velocity: Tensor) -> None:
        """Takes note of a predicted velocity that the solver steps along."""
        moved = self._dsigma[step] * velocity
        self._moved = moved if self._moved is None else self._moved + moved
        self._skipped.append(step)

    def correct(self, step: int, nodes: Sequence[float], velocities: Sequence[Tensor]) -> Tensor:
        """The velocity to step along at a computed step.

        Args:
            step: index of the step.
            nodes: coordinates of this step and of those that the predictions were made from, newest first.
            velocities: the velocities computed there.
        """
        if self._moved is None:
            return velocities[0]
        weights = [0.0] * len(nodes)
        for skipped in self._skipped:
            row = combine(newton_terms(nodes, self._x[skipped]))
            weights = [total + self._dsigma[skipped] * weight for total, weight in zip(weights, row, strict=True)]
        shortfall = weighted_sum(velocities, weights) - self._moved
        self._skipped, self._moved = [], None
        return velocities[0] + (shortfall / self._dsigma[step]).to(velocities[0].dtype)

    @property
    def memory_bytes(self) -> int:
        """What is kept: one tensor of the velocity's size while a gap is open."""
        return 0 if self._moved is None else self._moved.nbytes

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensor by name, and everything else as plain data."""
        return {} if self._moved is None else {"moved": self._moved}, {"skipped": self._skipped}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes over what ``state`` returned."""
        self._moved, self._skipped = tensors.get("moved"), list(plain["skipped"])
