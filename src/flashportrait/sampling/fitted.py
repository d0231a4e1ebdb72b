"""Prediction fitted to a model: which steps to compute, and how to combine what was computed, fitted on its own runs.

Extrapolation knows nothing of the model. But over many clips the velocities of one model on one schedule behave alike,
so the best combination can be measured instead of derived: run a few clips exactly, then choose, for each gap between
computed steps, the weights of all velocities computed so far with which one straight step over the gap ends nearest to
the exact latents. A handful of numbers, found by least squares in closed form: a non-stationary solver (as those of
arXiv 2403.01329, which trains them by gradient descent through the network).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.sampling.extrapolation import weighted_sum
from flashportrait.sampling.prediction import PredictionState

RIDGE = 1e-6
"""Pull towards repeating the newest velocity, as a share of the velocities' mean square: they are nearly collinear."""

Velocity = Callable[[Tensor, int], Tensor]
"""``velocity(latents, step) -> velocity``: the exact one, of one clip."""


@dataclass(frozen=True)
class FittedPrediction:
    """Fixed computed steps, and the weights with which each gap after them is crossed. For Euler only.

    Raises:
        UserError: fields that don't belong together.
    """

    sigmas: tuple[float, ...]
    """The schedule it was fitted on: noise levels at which the steps begin, then the last one's end."""
    full_steps: tuple[int, ...]
    """The computed steps, ascending from 0."""
    weights: tuple[tuple[float, ...], ...]
    """Row k: weights of the velocities computed up to ``full_steps[k]``, newest first. They needn't sum to 1."""

    target: ClassVar[str] = "guided"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        object.__setattr__(self, "full_steps", tuple(self.full_steps))
        object.__setattr__(self, "weights", tuple(tuple(row) for row in self.weights))
        ascending = list(self.full_steps) == sorted({*self.full_steps})
        if not self.full_steps or self.full_steps[0] != 0 or not ascending or self.full_steps[-1] >= self.steps:
            raise UserError(
                f"fitted full_steps are {self.full_steps}; they must ascend from 0 within {self.steps} steps"
            )
        if [len(row) for row in self.weights] != list(range(1, len(self.full_steps) + 1)):
            raise UserError(f"fitted weights have rows of {[len(r) for r in self.weights]}; 1, 2, 3, ... are needed")

    @property
    def steps(self) -> int:
        """Steps of the schedule."""
        return len(self.sigmas) - 1

    @property
    def kept(self) -> int:
        """Velocities kept of a window at most."""
        return len(self.full_steps)

    def start(
        self, sigmas: Sequence[float], *, first_order: bool = True, device: torch.device | str | None = None
    ) -> PredictionState:
        """Fresh state for one run; see ``AdaptiveLatentPrediction.start``.

        Raises:
            UserError: another schedule than it was fitted on, or a multistep solver.
        """
        if not first_order:
            raise UserError("fitted prediction needs a first-order solver; choose Euler, or another predictor")
        given = [float(sigma) for sigma in sigmas]
        if len(given) != len(self.sigmas) or max(abs(a - b) for a, b in zip(given, self.sigmas, strict=True)) > 1e-4:
            raise UserError(
                f"this prediction was fitted on a schedule of {self.steps} steps, not on this one of {len(given) - 1}; "
                "use the model's own steps and scheduler, another predictor, or exact speed"
            )
        return PredictionState(lambda: _FittedVelocity(self), [asdict(self)], device)


class _FittedVelocity:
    """A window's computed velocities, and the combination in use."""

    def __init__(self, config: FittedPrediction):
        self._config = config
        self._velocities: list[Tensor] = []

    def is_full(self, step: int) -> bool:
        return step in self._config.full_steps

    def observe(self, step: int, velocity: Tensor) -> Tensor:
        self._velocities.insert(0, velocity)
        return self.predict(step)

    def predict(self, step: int) -> Tensor:
        weights = self._config.weights[len(self._velocities) - 1]
        return weighted_sum(self._velocities, weights).to(self._velocities[0].dtype)

    @property
    def memory_bytes(self) -> int:
        return sum(velocity.nbytes for velocity in self._velocities)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {f"velocity{i}": velocity for i, velocity in enumerate(self._velocities)}, {}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        self._velocities = [tensors[f"velocity{i}"] for i in range(len(tensors))]


@dataclass(frozen=True)
class ExactRun:
    """A clip run step by step, to fit to."""

    velocity: Velocity
    """The clip's velocity anywhere."""
    latents: list[Tensor]
    """Before each step, and at the end: one more than steps."""


def run_exactly(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> ExactRun:
    """Euler over all steps."""
    latents = [noise]
    for step, (begin, end) in enumerate(itertools.pairwise(sigmas)):
        latents.append(latents[-1] + (end - begin) * velocity(latents[-1], step))
    return ExactRun(velocity, latents)


def fit(runs: Sequence[ExactRun], sigmas: Sequence[float], full_steps: Sequence[int]) -> FittedPrediction:
    """The weights for given computed steps.

    The clips are run as the prediction will run them, gap by gap, so that each gap's weights also correct the errors of
    the gaps before it.

    Args:
        runs: exact runs of a few clips.
        sigmas: their schedule.
        full_steps: the computed steps, ascending from 0.
    """
    return _fit(runs, sigmas, full_steps)[0]


def fit_with_moved_steps(
    runs: Sequence[ExactRun], sigmas: Sequence[float], start: Sequence[int], sweeps: int = 1
) -> FittedPrediction:
    """The weights for the best computed steps found from ``start``, moving one at a time while that helps.

    Args:
        sweeps: passes over the computed steps at most. Each tries every step but the first at four places around its
            own, which takes ``4 * len(start)**2 * len(runs)`` calls.
    """
    best, best_error = _fit(runs, sigmas, start)
    for _ in range(sweeps):
        before = best
        for index, shift in itertools.product(range(1, len(start)), (-2, -1, 1, 2)):
            steps = list(best.full_steps)
            steps[index] += shift
            if not 0 < steps[index] < len(sigmas) - 1 or len({*steps}) < len(steps):
                continue
            trial, error = _fit(runs, sigmas, sorted(steps))
            if error < 0.999 * best_error:
                best, best_error = trial, error
        if best is before:
            break
    return best


def _fit(
    runs: Sequence[ExactRun], sigmas: Sequence[float], full_steps: Sequence[int]
) -> tuple[FittedPrediction, float]:
    """The prediction, and the root of the sum over clips of its latents' relative errors squared."""
    latents = [run.latents[0] for run in runs]
    velocities: list[list[Tensor]] = [[] for _ in runs]
    rows: list[tuple[float, ...]] = []
    for begin, end in itertools.pairwise([*full_steps, len(sigmas) - 1]):
        step = sigmas[end] - sigmas[begin]
        for run, x, known in zip(runs, latents, velocities, strict=True):
            known.insert(0, run.velocity(x, begin))
        wanted = [(run.latents[end] - x) / step for run, x in zip(runs, latents, strict=True)]
        weights = _least_squares(velocities, wanted)
        rows.append(tuple(weights))
        latents = [x + step * weighted_sum(known, weights) for x, known in zip(latents, velocities, strict=True)]
    errors = [
        float((x - run.latents[-1]).norm() / run.latents[-1].norm()) for x, run in zip(latents, runs, strict=True)
    ]
    return FittedPrediction(tuple(sigmas), tuple(full_steps), tuple(rows)), sum(error**2 for error in errors) ** 0.5


def _least_squares(known: Sequence[Sequence[Tensor]], wanted: Sequence[Tensor]) -> list[float]:
    """Weights w with ``sum_j w_j known[clip][j] ~ wanted[clip]`` over all clips."""
    count = len(known[0])
    gram, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for velocities, target in zip(known, wanted, strict=True):
        columns = torch.stack([velocity.flatten() for velocity in velocities]).double().cpu()
        gram += columns @ columns.T
        right += columns @ target.flatten().double().cpu()
    pull = RIDGE * gram.diagonal().mean()
    newest = torch.zeros(count, dtype=torch.float64)
    newest[0] = 1.0
    return torch.linalg.solve(gram + pull * torch.eye(count, dtype=torch.float64), right + pull * newest).tolist()
