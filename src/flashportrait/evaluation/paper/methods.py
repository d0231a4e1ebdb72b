"""Ways of saving calls of the network, at matched numbers of calls: fewer steps, caches, predictions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from torch import nn

from flashportrait.evaluation.paper.clips import Clip
from flashportrait.evaluation.paper.teacache import TeaCacheConfig
from flashportrait.models.transformer import FlashPortraitBlock
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.predictor import AdaptiveLatentPrediction

PAPER_INTERVALS = (2, 3, 4, 5, 6, 8)
TOLERANCES = (0.02, 0.05, 0.1, 0.2, 0.4)

Configure = Callable[[float], Any]
"""Makes a cache's configuration from its threshold."""
Tune = Callable[[str, Configure, int], float]
"""``tune(family, configure, calls)``: the threshold at which the cache makes that many calls."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    family: str
    """Methods that differ in speed alone; a line of the plot."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``sample_latents``."""
    cache: Callable[[], Any] | None = None
    """Makes a configuration for ``transformer.enable_cache``."""
    scheduler: Callable[[float], Any] | None = None
    """Makes a scheduler from the model's time shift; the model's own unless given."""
    sampler: Callable[[FlashPortraitPipeline, Clip, dict[str, Any]], torch.Tensor] | None = None
    """Makes latents of a clip with the arguments of ``sample_latents``; that, unless given."""
    within: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext
    """What of the transformer is changed while it runs."""


def exact(steps: int) -> Method:
    """The reference: every step computed."""
    return Method(f"Euler {steps}", "Euler", {"num_inference_steps": steps})


def fewer_steps(calls: int) -> Iterator[Method]:
    """The baseline that needs no cache: another schedule, or a better solver."""
    yield exact(calls)
    yield Method(f"UniPC {calls}", "UniPC", {"num_inference_steps": calls}, scheduler=_unipc)
    yield Method(f"DPM++ 2M {calls}", "DPM++ 2M", {"num_inference_steps": calls}, scheduler=_dpm)


def predictions(calls: int, steps: int) -> Iterator[Method]:
    """Ours at a number of calls: the rules at the same computed steps, evenly spread."""
    for label, options in {
        "reuse": {"method": "newton", "order": 0},
        "newton 1": {"method": "newton", "order": 1},
        "newton 2": {"method": "newton", "order": 2},
        "newton 1 sigma": {"method": "newton", "order": 1, "coordinate": "sigma"},
        "hermite 3": {"method": "hermite", "order": 3},
        "alp 3": {"method": "alp", "order": 3},
        "taylor 3": {"method": "taylor", "order": 3},
        "newton 0 corrected": {"method": "newton", "order": 0, "corrected": True},
        "newton 1 corrected": {"method": "newton", "order": 1, "corrected": True},
        "newton 1 log-snr corrected": {"method": "newton", "order": 1, "corrected": True, "coordinate": "log_snr"},
        "newton 2 corrected": {"method": "newton", "order": 2, "corrected": True},
    }.items():
        yield _predicted(f"{label}, spread", calls, speedup=steps / calls, **options)


def paper_settings(*, quick: bool = False) -> Iterator[Method]:
    """Adaptive Latent Prediction as published, K = 2 .. 8, and its variations at K = 5.

    ``quick`` leaves the other K, the target ``modules`` and the error-controlled forms out.
    """
    for interval in (5,) if quick else PAPER_INTERVALS:
        yield Method(f"ALP K={interval} n=3", "ALP (paper)", _with(interval=interval))
        yield Method(f"ALP K={interval} n=3 without s", "ALP without s", _with(interval=interval, alpha=0.0))
    for order in (1, 2):
        yield Method(f"ALP K=5 n={order}", f"ALP n={order}", _with(order=order))
    yield Method("ALP K=5 n=3 in sigma", "ALP in sigma", _with(coordinate="sigma"))
    for target in ("last_block", "blocks") if quick else ("last_block", "blocks", "modules"):
        yield Method(f"ALP K=5 n=3 {target}", f"ALP {target}", _with(target=target))
        yield Method(
            f"ALP K=5 n=3 {target} without s and w",
            f"Taylor {target}",
            _with(target=target, alpha=0.0, layer_scale=False),
        )
    for tolerance in () if quick else TOLERANCES:
        options = {"method": "newton", "order": 1, "interval": 3, "corrected": True}
        yield Method(f"tolerance {tolerance}", "error-controlled", _with(tolerance=tolerance, **options))


def caches(
    calls: int, steps: int, magnitude_ratios: list[float], tune: Tune, wanted: Callable[[str], object]
) -> Iterator[Method]:
    """diffusers' caches and TeaCache.

    Args:
        calls: transformer calls wanted.
        steps: steps of the schedule.
        magnitude_ratios: what MagCache has to know of the model.
        tune: finds the threshold at which a configuration makes that many calls.
        wanted: whether a method of this name is; the others aren't tuned.
    """
    interval, warmup = taylorseer_setting(calls, steps)
    for order in (1, 2):
        taylorseer = TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=warmup,
            max_order=order,
            cache_identifiers=[r"blocks\.\d+"],
            taylor_factors_dtype=torch.float32,
        )
        yield Method(f"TaylorSeer n={order} ~{calls}", f"TaylorSeer n={order}", cache=lambda config=taylorseer: config)

    def sea_cache(threshold: float) -> Any:
        return SeaCacheConfig(threshold, max_consecutive_cached=0, raw_vision_callback=_noisy_latents)

    def mag_cache(threshold: float) -> Any:
        return MagCacheConfig(threshold, steps, 0.1, steps, mag_ratios=magnitude_ratios)

    families: dict[str, Configure] = {
        "FirstBlockCache": FirstBlockCacheConfig,
        "SeaCache": sea_cache,
        "TeaCache": TeaCacheConfig,
        "MagCache": mag_cache,
    }
    for family, configure in families.items():
        name = f"{family} ~{calls}"
        if wanted(name):
            threshold = tune(family, configure, calls)
            yield Method(name, family, cache=lambda c=configure, t=threshold: c(t))


def taylorseer_setting(calls: int, steps: int) -> tuple[int, int]:
    """The interval and warm-up (as long as can be, up to 3) with which TaylorSeer's policy makes that many calls."""
    for warmup in (3, 2, 1):
        for interval in range(1, steps + 1):
            full = [step for step in range(steps) if step < warmup or (step - warmup - 1) % interval == 0]
            if len(full) == calls:
                return interval, warmup
    return taylorseer_setting(calls + 1, steps)


def register_blocks() -> None:
    """Tells diffusers' caches how our block is called; they know their own blocks only."""
    TransformerBlockRegistry.register(
        FlashPortraitBlock,
        TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
    )


class ResidualMagnitudes:
    """Measures MagCache's ratios: the residual's mean token norm at each step over that of the step before."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self.norms: list[torch.Tensor] = []

    def __enter__(self) -> ResidualMagnitudes:
        run_blocks = self._transformer.run_blocks

        def run(tokens: torch.Tensor, *conditions: Any) -> torch.Tensor:
            output = run_blocks(tokens, *conditions)
            self.norms.append((output - tokens).float().norm(dim=-1))
            return output

        self._transformer.run_blocks = run
        return self

    def __exit__(self, *_: object) -> None:
        del self._transformer.run_blocks

    def ratios(self, steps: int) -> list[float]:
        """One ratio a step, of the first pass in each step (one window, the branch that runs first)."""
        first = self.norms[:: len(self.norms) // steps]
        return [1.0] + [float((now / before).mean()) for before, now in itertools.pairwise(first)]


def _predicted(name: str, calls: int, **options: Any) -> Method:
    return Method(f"{name} {calls}", name, _with(**options))


def _with(**options: Any) -> dict[str, Any]:
    return {"predictor": AdaptiveLatentPrediction(**options)}


def _unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _dpm(shift: float) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _noisy_latents(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """SeaCache compares these from step to step."""
    return list(kwargs["hidden_states"][:, : module.config.out_channels].unbind(0))
