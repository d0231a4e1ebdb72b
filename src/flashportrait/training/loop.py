"""Shared by all training stages: learning rate schedule, averaged weights, logs, interrupting and resuming."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from flashportrait.training.checkpoint import load_state, save_state

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
"""What one step of training is given."""


@dataclass(frozen=True)
class LoopConfig:
    """When a stage stops, and how often it logs, samples and saves."""

    steps: int
    """Optimizer steps in all; the learning rate falls to zero over them."""
    minutes: float | None = None
    """Wall-clock bound of this run; the learning rate falls to zero within it, whichever of the two ends first."""
    warmup: int = 200
    """Steps over which the learning rate rises from zero."""
    cooldown: float = 0.5
    """Last share of the run over which the learning rate falls (as a cosine)."""
    ema: float = 0.999
    """Decay of the averaged weights; the averaged weights are what is exported."""
    clip_norm: float = 1.0
    """Bound on the norm of the gradient."""
    log_every: int = 50
    sample_every: int = 1000
    save_every: int = 1000


class EMA:
    """Exponential moving average of a module's parameters, warmed up so that early weights don't linger."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for averaged, current in zip(self.module.parameters(), module.parameters(), strict=True):
            averaged.lerp_(current.to(averaged.dtype), 1 - decay)
        for averaged, current in zip(self.module.buffers(), module.buffers(), strict=True):
            averaged.copy_(current)


def learning_rate_scale(progress: float, step: int, config: LoopConfig) -> float:
    """Factor on the learning rate: linear warm-up, flat, cosine to zero over the last ``cooldown`` of the run.

    Args:
        progress: share of the run behind us, in [0, 1].
    """
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    left = (1 - progress) / max(config.cooldown, 1e-9)
    return warm * (1.0 if left >= 1 else 0.5 * (1 - math.cos(math.pi * max(left, 0.0))))


def build_optimizers(
    module: nn.Module, lr: float, matrix_lr: float | None, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices inside blocks when ``matrix_lr`` is given (torch >= 2.9)."""
    if matrix_lr is None:
        return [torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)]
    matrices = {id(p): p for n, p in module.named_parameters() if p.ndim == 2 and "blocks." in n}
    others = [p for p in module.parameters() if id(p) not in matrices]
    return [
        torch.optim.Muon(
            list(matrices.values()), lr=matrix_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay),
    ]


@dataclass
class Stage(Generic[Batch]):
    """One resumable training run.

    Args:
        module: what is trained.
        optimizers: each steps once per batch.
        loss: maps a batch to a dict of scalars; ``"loss"`` is minimised, all are logged.
        folder: receives ``log.jsonl``, ``state.safetensors`` and samples.
        sample: called with the averaged module and the step, every ``sample_every`` steps.
    """

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[Batch], dict[str, Tensor]]
    folder: Path
    config: LoopConfig
    sample: Callable[[nn.Module, int], dict[str, float] | None] | None = None
    step: int = 0
    base_rates: list[float] = field(init=False)
    ema: EMA = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ema = EMA(self.module, self.config.ema)
        self.base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

    def resume(self) -> None:
        """Continues from ``folder/state.safetensors`` if there is one."""
        path = self.folder / "state.safetensors"
        if path.exists():
            self.step = load_state(path, self.module, self.ema.module, self.optimizers)
            logger.info("resumed %s at step %d", path, self.step)

    def save(self) -> None:
        save_state(self.folder / "state.safetensors", self.step, self.module, self.ema.module, self.optimizers)

    def run(self, batches: Iterator[Batch]) -> nn.Module:
        """Trains until the steps or the minutes are over; returns the averaged module."""
        started, first_step = time.monotonic(), self.step
        sums: dict[str, float] = {}
        while (progress := self._progress(started)) < 1:
            scale = learning_rate_scale(progress, self.step - first_step, self.config)
            for name, value in self._update(next(batches), scale).items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            if self.step % self.config.log_every == 0:
                rate = (self.step - first_step) / (time.monotonic() - started)
                self._log({name: value / self.config.log_every for name, value in sums.items()}, scale, rate)
                sums = {}
            if self.sample and self.step % self.config.sample_every == 0:
                self._log(self.sample(self.ema.module, self.step) or {}, scale, None)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()
        return self.ema.module

    def _progress(self, started: float) -> float:
        by_steps = self.step / self.config.steps
        if self.config.minutes is None:
            return by_steps
        return max(by_steps, (time.monotonic() - started) / (60 * self.config.minutes))

    def _update(self, batch: Batch, scale: float) -> dict[str, float]:
        self.module.train()
        losses = self.loss(batch)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        for optimizer, rate in zip(self.optimizers, self.base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.module, self.step)
        return {name: float(value.detach()) for name, value in losses.items()} | {"grad_norm": float(norm)}

    def _log(self, values: dict[str, float], scale: float, rate: float | None) -> None:
        row = {"step": self.step, "lr_scale": round(scale, 4), **{k: round(v, 5) for k, v in values.items()}}
        if rate is not None:
            row["steps_per_second"] = round(rate, 3)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        logger.info("%s", row)
