"""How latents are made from noise: the settings of a run that have a model's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flashportrait.errors import UserError
from flashportrait.sampling.denoise import ORDERS, Order
from flashportrait.sampling.fitted import FittedPrediction
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.speed import preset


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of the sampler. The defaults are the released model's.

    Raises:
        UserError: a value out of its range.
    """

    num_inference_steps: int = 30
    """Steps of the scheduler."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels to step through instead of ``num_inference_steps`` steps, before the scheduler's shift."""
    text_scale: float = 1.0
    """1 follows the prompt as it stands; above 1 also pushes away from the negative prompt."""
    emotion_scale: float = 4.0
    """0 ignores the driving expression, 1 follows it as it stands, above 1 exaggerates it."""
    window: int = 51
    """Latent frames denoised together."""
    overlap: int = 30
    """Latent frames that neighbouring windows share."""
    schedule: Order = "diagonal"
    """Order of work: ``synchronous`` (the paper's), ``diagonal`` (the same numbers, frames earlier, less memory on long
    clips) or ``causal`` (frames after one window, constant memory, other numbers)."""
    temperature: float = 1.0
    """Standard deviation of the noise that is drawn to start from. Below 1, results are nearer to what the model holds
    likeliest and vary less with the seed; at 0 they don't depend on it. Good for a small model, unsure of much."""
    refine: float = 1.0
    """Share, in [0, 1], that is taken over of the network's changes to what is drawn on a face mesh, for models whose
    reference is drawn; at 0 the network isn't run."""
    predictor: AdaptiveLatentPrediction | FittedPrediction | None = None
    """Predicts some of the steps; None computes all."""
    batched: bool = False
    """Run guidance branches as one batch: faster where there is memory to spare."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise UserError(f"the number of steps is {self.num_inference_steps}; at least 1 is needed")
        if self.sigmas is not None and not self.sigmas:
            raise UserError("the list of sigmas is empty; give at least one, or a number of steps")
        for name in ("text_scale", "emotion_scale", "temperature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; give a number from 0 up")
        if not 0 <= self.refine <= 1:
            raise UserError(f"refine is {self.refine}; give a number from 0 to 1")
        if self.schedule not in ORDERS:
            raise UserError(f"the schedule is {self.schedule!r}; choose one of {', '.join(ORDERS)}")

    @classmethod
    def resolve(cls, defaults: Mapping[str, Any], speed: str | None, given: Mapping[str, Any]) -> SamplingSettings:
        """A model's ``defaults`` with the ``given`` values in their place, and the predictor of a speed.

        ``defaults`` may hold a ``speed``, which counts where neither ``speed`` nor a predictor is given, and
        ``speeds``: predictions fitted to the model, by speed.

        Raises:
            UserError: an unknown setting, or both a speed and a predictor.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise UserError(f"unknown setting {', '.join(unknown)}; the settings are {', '.join(sorted(known))}")
        if speed is not None and given.get("predictor") is not None:
            raise UserError("speed and predictor both choose the steps to compute; give one of them")
        own = dict(defaults)
        own_speed, own_speeds = own.pop("speed", "exact"), own.pop("speeds", None)
        if given.keys() & {"num_inference_steps", "sigmas"}:
            own_speed = "exact"
        if "num_inference_steps" in given and "sigmas" not in given:
            own.pop("sigmas", None)
        if "predictor" not in given or speed is not None:
            given = {**given, "predictor": preset(speed or own_speed, own_speeds)}
        return replace(cls(**own), **given)
