"""One predicted quantity over one run: what is remembered of it, and when it is computed next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashportrait.sampling.extrapolation import History, adaptive_gains


class Stream:
    """The history of a quantity and what it predicts; when to compute it is its owner's choice."""

    def __init__(self, method: str, order: int, alpha: float):
        """``method``, ``order`` and ``alpha`` are those of ``AdaptiveLatentPrediction``."""
        self._method = method
        self._alpha = alpha
        self.history = History(method, order + 1)
        self.full_step = 0
        """The newest computed step."""
        self.next_full_step = 0
        """The next step to compute."""
        self.latent_rates: list[Tensor] = []
        """The latent's rate of change at each step in order, scalars on the values' device: what s(t) compares. Noted
        by the owner, for ``alp``."""
        self.layer_ratios = [1.0] * order
        """``r_1 .. r_n`` of w(t, l, i). Kept by the owner where the quantity has layers."""

    def is_full(self, step: int) -> bool:
        """Whether this step is to be computed."""
        return step >= self.next_full_step

    def observe(self, step: int, x: float, value: Tensor, next_full_step: int) -> None:
        """Takes in the value computed at a step.

        Args:
            step: index of the step.
            x: the step's coordinate: what the quantity is extrapolated in.
            value: the value, kept as it is.
            next_full_step: the next step to compute.
        """
        self.full_step, self.next_full_step = step, next_full_step
        self.history.push(x, value)

    def predict(self, x: float) -> Tensor:
        """The value expected at coordinate x, in the type of the values observed."""
        gains = None
        if self._method == "alp":
            ratios = self.layer_ratios[: len(self.history) - 1]
            gains = adaptive_gains(self.latent_rates[: self.full_step + 1], ratios, self._alpha)
        return self.history.predict(x, gains).to(self.history.values[0].dtype)

    @property
    def memory_bytes(self) -> int:
        """What the history takes."""
        return sum(value.nbytes for value in self.history.values)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors by name, and everything else as plain data."""
        tensors = {f"value{i}": value for i, value in enumerate(self.history.values)}
        if self.latent_rates:
            tensors["latent_rates"] = torch.stack(self.latent_rates)
        plain = {
            "nodes": self.history.nodes,
            "full_step": self.full_step,
            "next_full_step": self.next_full_step,
        }
        return tensors, plain

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes over what ``state`` returned."""
        self.history.nodes = list(plain["nodes"])
        self.history.values = [tensors[f"value{i}"] for i in range(len(self.history.nodes))]
        self.full_step, self.next_full_step = plain["full_step"], plain["next_full_step"]
        self.latent_rates = list(tensors["latent_rates"].unbind()) if "latent_rates" in tensors else []


def rate_of_change(change: Tensor, span: float) -> Tensor:
    """``|change| / span`` as a scalar on the device of ``change``: the loop never waits for its value."""
    norm = torch.linalg.vector_norm(change.float())
    return (norm if norm.device.type == "mps" else norm.double()) / span
