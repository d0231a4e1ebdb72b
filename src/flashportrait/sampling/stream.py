"""One predicted quantity over one run: its history, and when it is computed next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flashportrait.sampling.extrapolation import History, adaptive_gains

if TYPE_CHECKING:
    from flashportrait.sampling.predictor import AdaptiveLatentPrediction


class Stream:
    """Decides at each step whether to compute a quantity, remembers what was computed, predicts the rest.

    Deterministic: the same values give the same decisions.

    Args:
        config: the policy.
        steps: steps in the run.
    """

    def __init__(self, config: AdaptiveLatentPrediction, steps: int):
        self._config = config
        self._steps = steps
        self._full_step = 0
        self._next_full_step = 0
        self.history = History(config.method, config.order + 1)
        self.latent_rates: list[float] = []
        """The latent's rate of change at each step in order: what s(t) compares. Noted by the owner, for ``alp``."""
        self.layer_ratios = [1.0] * config.order
        """``r_1 .. r_n`` of w(t, l, i). Kept by the owner where the quantity has layers."""

    def is_full(self, step: int) -> bool:
        """Whether this step is to be computed."""
        return step >= self._next_full_step

    def observe(self, step: int, x: float, value: Tensor) -> None:
        """Takes in the value computed at a step, and chooses the next step to compute.

        Args:
            step: index of the step.
            x: the step's coordinate: what the quantity is extrapolated in.
            value: the value, kept as it is.
        """
        self._next_full_step = self._choose_next(step, x, value)
        self._full_step = step
        self.history.push(x, value)

    def predict(self, x: float) -> Tensor:
        """The value expected at coordinate x, in the type of the values observed."""
        gains = None
        if self._config.method == "alp":
            ratios = self.layer_ratios[: len(self.history) - 1]
            gains = adaptive_gains(self.latent_rates[: self._full_step + 1], ratios, self._config.alpha)
        return self.history.predict(x, gains).to(self.history.values[0].dtype)

    @property
    def memory_bytes(self) -> int:
        """What the history takes."""
        return sum(value.nbytes for value in self.history.values)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors by name, and everything else as plain data."""
        tensors = {f"value{i}": value for i, value in enumerate(self.history.values)}
        plain = {
            "nodes": self.history.nodes,
            "full_step": self._full_step,
            "next_full_step": self._next_full_step,
            "latent_rates": self.latent_rates,
        }
        return tensors, plain

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes over what :meth:`state` returned."""
        self.history.nodes = list(plain["nodes"])
        self.history.values = [tensors[f"value{i}"] for i in range(len(self.history.nodes))]
        self._full_step, self._next_full_step = plain["full_step"], plain["next_full_step"]
        self.latent_rates = list(plain["latent_rates"])

    def _choose_next(self, step: int, x: float, value: Tensor) -> int:
        config, known = self._config, len(self.history)
        if config.tolerance is None or known == 0 or step + 1 < config.warmup:
            return config.next_full_step(step, self._steps)
        error = relative_error(self.predict(x), value)
        gap = next_gap(step - self._full_step, error, config.tolerance, known, config.max_interval)
        return min(step + gap, max(step + 1, self._steps - config.cooldown))


def relative_error(predicted: Tensor, computed: Tensor) -> float:
    """``|predicted - computed| / |computed|``: Euclidean norms over all elements."""
    computed = computed.float()
    return float((predicted.float() - computed).norm() / computed.norm().clamp_min(1e-12))


def next_gap(gap: int, error: float, tolerance: float, points: int, longest: int) -> int:
    """The step-size rule of adaptive ODE solvers: the gap whose expected error is the tolerance, with some margin.

    Extrapolating from p points the error grows as ``gap^p``, so the gap scales with ``(tolerance / error)^(1/p)``;
    within half and twice the gap before, and within 1 .. ``longest``.
    """
    factor = 0.9 * (tolerance / max(error, 1e-12)) ** (1.0 / points)
    return max(1, min(longest, math.floor(gap * min(2.0, max(0.5, factor)))))
