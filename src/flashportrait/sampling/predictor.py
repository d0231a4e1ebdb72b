"""Adaptive Latent Prediction: run the network at some denoising steps only, and predict it at the others.

The mathematics is in :mod:`flashportrait.sampling.extrapolation`, one quantity's history in
:mod:`flashportrait.sampling.stream`; here is the policy, per window. A run of the sampler::

    state = predictor.start(sigmas)
    velocity = state.step(window_index, step_index, compute)      # calls compute() or predicts
    state.finish(window_index)                                    # frees that window's history

Windows may be visited in any order, the steps of each in ascending order. A new run needs a new ``start``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.sampling.corrector import Corrector
from flashportrait.sampling.extrapolation import EXTRAPOLATORS
from flashportrait.sampling.stream import Stream

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
    """``alp``, ``taylor``, ``newton`` or ``hermite``: see :mod:`flashportrait.sampling.extrapolation`."""
    layer_scale: bool = True
    """``alp`` only: apply w(t, l, i), which is 1 where the target has a single layer."""
    coordinate: str = "step"
    """What the quantity is taken as a function of: ``step`` (the paper's), ``sigma`` or ``log_snr``."""
    warmup: int = 1
    """Steps computed at the start."""
    cooldown: int = 0
    """Steps computed at the end."""
    speedup: float | None = None
    """Compute ``round(steps / speedup)`` steps, evenly spread, in the place of interval, warm-up and cool-down."""
    full_steps: tuple[int, ...] | None = None
    """The computed steps one by one, from 0, in the place of all of these."""
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

    def start(self, sigmas: Sequence[float], *, first_order: bool = True) -> PredictionState:
        """Fresh state for one run.

        Args:
            sigmas: noise levels at which the steps begin, descending, then the last one's end: one more than steps.
            first_order: the solver steps along the velocity it is given and keeps none (Euler).

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
        return PredictionState(self, [float(sigma) for sigma in sigmas])

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
        inside = min(max(sigma, 1e-3), 1.0 - 1e-3)
        return math.log((1.0 - inside) / inside)

    def _check_tolerance(self, tolerance: float) -> None:
        if not tolerance > 0:
            raise UserError(f"predictor tolerance is {tolerance}; it must be above 0")
        if self.target != "guided":
            raise UserError(f"predictor tolerance needs target guided; found {self.target}")
        if self.max_interval < self.interval:
            raise UserError(f"predictor max_interval {self.max_interval} is below interval {self.interval}; raise it")


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
    """One run's histories, one stream a window."""

    def __init__(self, config: AdaptiveLatentPrediction, sigmas: list[float]):
        self.config = config
        self.stats = PredictionStats()
        self._sigmas = sigmas
        self._windows: dict[int, _GuidedVelocity] = {}

    def step(self, window_index: int, step_index: int, compute: Callable[[], Tensor]) -> Tensor:
        """The velocity of a window at a step, by ``compute()`` or by prediction.

        With a target inside the network this always computes: the hooks in the network predict.
        """
        if self.config.target != "guided":
            self._count_full(window_index, step_index)
            return compute()
        window = self._windows.setdefault(window_index, _GuidedVelocity(self.config, self._sigmas))
        if window.stream.is_full(step_index):
            self._count_full(window_index, step_index)
            velocity = window.observe(step_index, compute())
        else:
            self.stats.predicted[window_index] = self.stats.predicted.get(window_index, 0) + 1
            velocity = window.predict(step_index)
        self.stats.peak_bytes = max(self.stats.peak_bytes, self.memory_bytes)
        return velocity

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
            "config": repr(self.config),
            "sigmas": self._sigmas,
            "full_steps": {str(index): steps for index, steps in self.stats.full_steps.items()},
            "predicted": {str(index): count for index, count in self.stats.predicted.items()},
            "peak_bytes": self.stats.peak_bytes,
            "windows": windows,
        }
        return {"tensors": tensors, "plain": plain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the run that :meth:`state_dict` was taken from.

        Raises:
            UserError: that run had other steps or another predictor.
        """
        plain, tensors = state["plain"], state["tensors"]
        if plain["sigmas"] != self._sigmas or plain["config"] != repr(self.config):
            raise UserError("the saved prediction state is of another predictor or schedule; resume with the same ones")
        self.stats = PredictionStats(
            {int(index): list(steps) for index, steps in plain["full_steps"].items()},
            {int(index): count for index, count in plain["predicted"].items()},
            plain["peak_bytes"],
        )
        self._windows = {}
        for index, window_plain in plain["windows"].items():
            prefix = f"{index}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            self._windows[int(index)] = _GuidedVelocity(self.config, self._sigmas)
            self._windows[int(index)].load(own, window_plain)

    def _count_full(self, window_index: int, step_index: int) -> None:
        self.stats.full_steps.setdefault(window_index, []).append(step_index)


class _GuidedVelocity:
    """A window's guided velocity: its stream, when it is computed, the latent's rate of change, the corrector."""

    def __init__(self, config: AdaptiveLatentPrediction, sigmas: list[float]):
        self.stream = Stream(config)
        self._config = config
        self._sigmas = sigmas
        self._x = [config.coordinate_at(step, sigma) for step, sigma in enumerate(sigmas)]
        self._dsigma = [end - begin for begin, end in itertools.pairwise(sigmas)]
        self._corrector = Corrector(self._x, self._dsigma) if config.corrected else None

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
        """Takes over what :meth:`state` returned."""
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
            self.stream.latent_rates.append(float(velocity.float().norm()) * abs(slope))


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"predictor {name} is {value!r}; choose one of {', '.join(choices)}")


SPEEDS: dict[str, AdaptiveLatentPrediction | None] = {
    "exact": None,
    "balanced": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=3),
    "fast": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=6),
    "turbo": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=10),
}
"""The settings of the speed dial; docs/predictor.md has what each costs in fidelity."""


def preset(speed: str) -> AdaptiveLatentPrediction | None:
    """The predictor of a speed in :data:`SPEEDS`; None computes every step.

    Raises:
        UserError: there is no such speed.
    """
    _check_choice("speed", speed, SPEEDS)
    return SPEEDS[speed]


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


def parse_predictor(text: str) -> AdaptiveLatentPrediction | None:
    """Reads ``method:field=value,...``, as in ``alp:interval=5,order=3,alpha=1.5,target=guided``; ``none`` is None.

    The numbers of ``full_steps`` are joined by ``+``: commas separate the fields.

    Raises:
        UserError: an unknown method or field, or a value that doesn't read.
    """
    method, _, rest = text.strip().partition(":")
    if method == "none":
        return None
    kinds = {entry.name: str(entry.type) for entry in fields(AdaptiveLatentPrediction) if entry.name != "method"}
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        name, separator, value = item.partition("=")
        if name not in kinds or not separator:
            raise UserError(f"predictor option {item!r} is not understood; write name=value, name one of {[*kinds]}")
        options[name] = _parse_value(name, value, kinds[name])
    return AdaptiveLatentPrediction(method=method, **options)


def _parse_value(name: str, value: str, kind: str) -> Any:
    try:
        if kind.startswith("tuple"):
            return tuple(int(part) for part in value.split("+"))
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind.removesuffix(" | None")](value)
    except (KeyError, ValueError):
        raise UserError(f"predictor option {name}={value} does not read as {kind.removesuffix(' | None')}") from None
