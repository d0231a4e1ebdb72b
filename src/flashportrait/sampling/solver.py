"""A diffusers scheduler as the solver of one stretch of latent frames.

Every deterministic flow solver in diffusers updates each number of the latents from its own past alone, so a clip may
be stepped stretch by stretch, each with its own history, and the result is that of stepping it whole.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashportrait.errors import UserError


@dataclass(frozen=True)
class Step:
    """One denoising step."""

    index: int
    """From 0."""
    timestep: Tensor
    """The timestep that the network is conditioned on, a scalar (sigma times 1000 in flow matching)."""
    sigma: float
    """Noise level at the start of the step: the latents are ``(1 - sigma) x + sigma noise``."""
    next_sigma: float
    """Noise level at the end of the step."""


def steps_of(scheduler: Any) -> list[Step]:
    """The steps of a scheduler on which ``set_timesteps`` was called.

    Raises:
        UserError: if stretches of the clip can't be solved apart with this scheduler, or it isn't for flow matching.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise UserError(
            f"{name} predicts {config['prediction_type']!r}; this model predicts a flow: "
            "build it with prediction_type='flow_prediction' and use_flow_sigmas=True"
        )
    if config.get("stochastic_sampling") or str(config.get("algorithm_type", "")).startswith("sde"):
        raise UserError(f"{name} adds noise at every step, which windows can't share; use a deterministic setting")
    if config.get("thresholding"):
        raise UserError(f"{name} has thresholding on, which looks at the whole clip at once; switch it off")
    sigmas = scheduler.sigmas.tolist()
    return [
        Step(index, timestep, sigmas[index], sigmas[index + 1]) for index, timestep in enumerate(scheduler.timesteps)
    ]


class Solver:
    """Latents of one stretch of frames, and the history with which a scheduler steps them."""

    def __init__(self, scheduler: Any, latents: Tensor) -> None:
        """Start at the first step.

        Args:
            scheduler: on which ``set_timesteps`` was called; copied, never changed.
            latents: [b c f h w] float32, pure noise.
        """
        self.scheduler = copy.deepcopy(scheduler)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        self.latents = latents
        self.steps_done = 0

    def step(self, velocity: Tensor, step: Step) -> None:
        """Move the latents along ``velocity`` [b c f h w] through ``step``, which must be the next one."""
        assert step.index == self.steps_done, f"step {step.index} given, {self.steps_done} due"
        self.latents = self.scheduler.step(velocity, step.timestep, self.latents, return_dict=False)[0]
        self.steps_done += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Latents, step count and whatever the scheduler changed since the start, as tensors."""
        state = {"latents": self.latents, "steps_done": torch.tensor(self.steps_done)}
        for name, value in vars(self.scheduler).items():
            state.update(_flatten(name, value))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where ``state_dict`` was taken; the scheduler must have the same settings."""
        device = self.latents.device
        self.latents = state["latents"].to(device)
        self.steps_done = int(state["steps_done"])
        for key, tensor in state.items():
            if key.startswith(_NUMBER):
                _assign(self.scheduler, key.removeprefix(_NUMBER), tensor.item())
            elif key.startswith(_TENSOR):
                name = key.removeprefix(_TENSOR)
                table = getattr(self.scheduler, name, None)  # a table (sigmas) stays where it is, history is elsewhere
                _assign(self.scheduler, name, tensor.to(table.device if isinstance(table, Tensor) else device))


_NUMBER, _TENSOR = "scheduler.number.", "scheduler.tensor."


def _flatten(name: str, value: Any) -> dict[str, Tensor]:
    """A scheduler's attribute as named tensors; settings (texts, dictionaries) and what is None give none."""
    if isinstance(value, Tensor):
        return {_TENSOR + name: value}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {_NUMBER + name: torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)}
    if isinstance(value, list):
        return {key: tensor for i, item in enumerate(value) for key, tensor in _flatten(f"{name}:{i}", item).items()}
    return {}


def _assign(scheduler: Any, name: str, value: Any) -> None:
    """Set an attribute, or (``name:index``) an item of one that is a list."""
    attribute, _, index = name.partition(":")
    if index:
        getattr(scheduler, attribute)[int(index)] = value
    else:
        setattr(scheduler, attribute, value)
