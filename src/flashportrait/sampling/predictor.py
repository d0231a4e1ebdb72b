"""Adaptive Latent Prediction: run the network at some denoising steps only, and predict it at the others.

The mathematics is in ``extrapolation`` and ``corrector``, one quantity's history in ``stream``, a run's state in
``prediction``; here is the policy. A run of the sampler::

    state = predictor.start(sigmas)
    velocity = state.step(window_index, step_index, compute)      # calls compute() or predicts
    state.finish(window_index)                                    # frees that window's history

Windows may be visited in any order, the steps of each in ascending order. A new run needs a new ``start``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.sampling.corrector import Corrector
from flashportrait.sampling.extrapolation import EXTRAPOLATORS
from flashportrait.sampling.prediction import PredictionState
from flashportrait.sampling.stream import Stream, rate_of_change

TARGETS = ("guided", "last_block", "blocks", "modules")
COORDINATES = ("step", "sigma", "log_snr")


@dataclass(frozen=True)
class AdaptiveLatentPrediction:
    """What is predicted, how, and how often it is computed. The defaults are the paper's setting.

    Raises:
        UserError: a field out of its range, or two fields that exclude each other.
    """

    interval: int = 5
    """Steps from one computed step to the next, K: K - 1 are predicted in between."""
    order: int = 3
    """Highest order of the differences, n: n + 1 values are kept. 0 repeats the newest value."""
    alpha: float = 1.5
    """``alp`` only: exponent of the latent-rate scale s(t); 0 leaves it out."""
    target: str = "guided"
    """``guided``: the velocity after guidance, one small stream a window. ``last_block``: the hidden states after the
    last block, per branch. ``blocks``: the same, scaled by how every block varies (w needs layers). ``modules``: the
    output of every attention and feed-forward layer, per branch; 40 to 120 times the memory."""
    method: str = "alp"
    """``alp``, ``taylor``, ``newton`` or ``hermite``: see ``flashportrait.sampling.extrapolation``."""
    layer_scale: bool = True
    """``alp`` only: apply w(t, l, i), which is 1 where the target has a single layer."""
    coordinate: str = "step"
    """What the quantity is taken as a function of: ``step`` (the paper's), ``sigma`` or ``log_snr``."""
    warmup: int = 1
    """Steps computed at the start."""
    cooldown: int = 0
    """Steps computed at the end."""
    speedup: float | None = None
    """Compute ``round(steps / speedup)`` steps, evenly spread; replaces interval, warm-up and cool-down."""
    full_steps: tuple[int, ...] | None = None
    """The computed steps one by one, from 0; replaces all of these."""
    tolerance: float | None = None
    """``guided`` only: choose each gap so that the relative error of prediction, measured at every computed step, stays
    below this; ``interval`` is then the first gap after the warm-up."""
    max_interval: int = 10
    """The widest gap under ``tolerance``."""
    corrected: bool = False
    """``guided`` only: once a step is computed, redo the gap before it by interpolation and let the step make up the
    difference. Costs no call. For first-order solvers (Euler) only."""

    def __post_init__(self) -> None:
        _check_choice("target", self.target, TARGETS)
        _check_choice("method", self.method, EXTRAPOLATORS)
        _check_choice("coordinate", self.coordinate, COORDINATES)
        for name, least in (("interval", 1), ("order", 0), ("alpha", 0), ("warmup", 1), ("cooldown", 0)):
            if getattr(self, name) < least:
                raise UserError(f"predictor {name} is {getattr(self, name)}; it must be at least {least}")
        if self.full_steps is not None and (
            not self.full_steps or self.full_steps[0] != 0 or list(self.full_steps) != sorted({*self.full_steps})
        ):
            raise UserError(f"predictor full_steps are {self.full_steps}; they must ascend from 0")
        if self.corrected and self.target != "guided":
            raise UserError(f"corrected prediction needs target guided; found {self.target}")
        choosers = [name for name in ("speedup", "full_steps", "tolerance") if getattr(self, name) is not None]
        if len(choosers) > 1:
            raise UserError(f"predictor {' and '.join(choosers)} each choose the computed steps; give one of them")
        if self.speedup is not None and not self.speedup >= 1:
            raise UserError(f"predictor speedup is {self.speedup}; it must be at least 1")
        if self.tolerance is not None:
            self._check_tolerance(self.tolerance)

    @property
    def kept(self) -> int:
        """Values kept of a window at most, per stream."""
        return self.order + 1 + self.corrected

    def start(
        self, sigmas: Sequence[float], *, first_order: bool = True, device: torch.device | str | None = None
    ) -> PredictionState:
        """Fresh state for one run.

        Args:
            sigmas: noise levels at which the steps begin, descending, then the last one's end: one more than steps.
            first_order: the solver steps along the velocity it is given and keeps none (Euler).
            device: of the velocities; only resuming needs it.

        Raises:
            UserError: ``corrected`` with a multistep solver, or too few steps for the speed-up.
        """
        steps = len(sigmas) - 1
        if self.corrected and not first_order:
            raise UserError("corrected prediction needs a first-order solver; choose Euler, or corrected=false")
        if self.speedup is not None and round(steps / self.speedup) < 2:
            raise UserError(
                f"{steps} steps are too few for a speed-up of {self.speedup:g}; use more steps, or exact speed"
            )
        sigmas = [float(sigma) for sigma in sigmas]
        begin = (lambda: _GuidedVelocity(self, sigmas)) if self.target == "guided" else None
        return PredictionState(begin, [repr(self), sigmas], device)

    def next_full_step(self, step: int, steps: int) -> int:
        """The computed step after the computed step ``step``, where no tolerance chooses it; at most ``steps``."""
        named = self.full_steps
        if self.speedup is not None:
            named = evenly_spread(round(steps / self.speedup), steps)
        if named is not None:
            return next((full for full in named if full > step), steps)
        if step + 1 < self.warmup:
            return step + 1
        return min(step + self.interval, max(step + 1, steps - self.cooldown))

    def planned_steps(self, steps: int) -> tuple[int, ...]:
        """The computed steps of each window out of ``steps``, where no tolerance chooses them."""
        planned = [0]
        while (step := self.next_full_step(planned[-1], steps)) < steps:
            planned.append(step)
        return tuple(planned)

    @property
    def uses_layer_scale(self) -> bool:
        """Whether w(t, l, i) has to be measured."""
        return self.method == "alp" and self.layer_scale and self.target in ("blocks", "modules") and self.order > 0

    def coordinate_at(self, step: int, sigma: float) -> float:
        """What the quantity is taken as a function of."""
        if self.coordinate == "step":
            return float(step)
        if self.coordinate == "sigma":
            return sigma
        inside = min(max(sigma, 1e-5), 1.0 - 1e-5)  # finite at both ends, distinct for up to thousands of steps
        return math.log((1.0 - inside) / inside)

    def _check_tolerance(self, tolerance: float) -> None:
        if not tolerance > 0:
            raise UserError(f"predictor tolerance is {tolerance}; it must be above 0")
        if self.target != "guided":
            raise UserError(f"predictor tolerance needs target guided; found {self.target}")
        if self.max_interval < self.interval:
            raise UserError(f"predictor max_interval {self.max_interval} is below interval {self.interval}; raise it")


class _GuidedVelocity:
    """A window's guided velocity: its stream, when it is computed, the latent's rate of change, the corrector."""

    def __init__(self, config: AdaptiveLatentPrediction, sigmas: list[float]):
        self.stream = Stream(config.method, config.order, config.alpha)
        self._config = config
        self._sigmas = sigmas
        self._x = [config.coordinate_at(step, sigma) for step, sigma in enumerate(sigmas)]
        self._dsigma = [end - begin for begin, end in itertools.pairwise(sigmas)]
        self._corrector = Corrector(self._x, self._dsigma) if config.corrected else None

    def is_full(self, step: int) -> bool:
        """Whether this step is to be computed."""
        return self.stream.is_full(step)

    def observe(self, step: int, velocity: Tensor) -> Tensor:
        """Takes in a computed velocity and returns the one to step along."""
        known = self.stream.history
        nodes, values = known.nodes, known.values
        self.stream.observe(step, self._x[step], velocity, self._choose_next(step, velocity))
        self._note_rate(step, velocity)
        if self._corrector is None:
            return velocity
        return self._corrector.correct(step, [self._x[step], *nodes], [velocity, *values])

    def predict(self, step: int) -> Tensor:
        """The velocity expected at a step between computed ones."""
        velocity = self.stream.predict(self._x[step])
        self._note_rate(step, velocity)
        if self._corrector is not None:
            self._corrector.note_predicted(step, velocity)
        return velocity

    @property
    def memory_bytes(self) -> int:
        """What is kept."""
        return self.stream.memory_bytes + (0 if self._corrector is None else self._corrector.memory_bytes)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors by name, and everything else as plain data."""
        tensors, plain = self.stream.state()
        if self._corrector is not None:
            corrector_tensors, corrector_plain = self._corrector.state()
            tensors, plain = tensors | corrector_tensors, plain | corrector_plain
        return tensors, plain

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes over what ``state`` returned."""
        self.stream.load(tensors, plain)
        if self._corrector is not None:
            self._corrector.load(tensors, plain)

    def _choose_next(self, step: int, velocity: Tensor) -> int:
        """The next step to compute: by the configuration, or by the error that the last prediction would have made."""
        config, steps, known = self._config, len(self._dsigma), len(self.stream.history)
        if config.tolerance is None or known == 0 or step + 1 < config.warmup:
            return config.next_full_step(step, steps)
        error = relative_error(self.stream.predict(self._x[step]), velocity)
        gap = self._sigmas[self.stream.full_step] - self._sigmas[step]
        reach = self._sigmas[step] - next_gap(gap, error, config.tolerance, known)
        furthest = max(step + 1, min(step + config.max_interval, steps - config.cooldown))
        return next((full for full in range(furthest, step, -1) if self._sigmas[full] >= reach), step + 1)

    def _note_rate(self, step: int, velocity: Tensor) -> None:
        """The latent's rate of change, ``|v| |dsigma / dx|``."""
        if self._config.method == "alp":
            slope = self._dsigma[step] / (self._x[step + 1] - self._x[step])
            self.stream.latent_rates.append(rate_of_change(velocity, 1 / abs(slope)))


def evenly_spread(calls: int, steps: int) -> tuple[int, ...]:
    """``calls`` computed steps out of ``steps``, a gap apart from the first, with a third of a gap after the last.

    The last one matters most: with the usual schedules much of the way to the clean latents is left near the end.
    """
    gap = (steps - 1) / (calls - 2 / 3)
    return tuple(round(index * gap) for index in range(calls))


def relative_error(predicted: Tensor, computed: Tensor) -> float:
    """``|predicted - computed| / |computed|``: Euclidean norms over all elements."""
    computed = computed.float()
    return float((predicted.float() - computed).norm() / computed.norm().clamp_min(1e-12))


def next_gap(gap: float, error: float, tolerance: float, points: int) -> float:
    """The step-size rule of adaptive ODE solvers: the gap whose expected error is the tolerance, with some margin.

    Extrapolating from p points over a gap, the error of the velocity grows as ``gap^p``, so the gap scales with
    ``(tolerance / error)^(1/p)``; within a quarter and four times the gap before. Gaps are in sigma because the latents
    move by velocity times sigma: the errors of all gaps, weighed so, add up to the error of the result.
    """
    factor = 0.9 * (tolerance / max(error, 1e-12)) ** (1.0 / points)
    return gap * min(4.0, max(0.25, factor))


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"predictor {name} is {value!r}; choose one of {', '.join(choices)}")
