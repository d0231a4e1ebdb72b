"""Predictors and solvers at equal calls on flows whose velocity is known exactly: seconds, no weights, no noise.

    python benchmarks/analytic_flows.py [--quick] [--json FILE]

The data of each flow are Gaussians in 256 dimensions with a falling spectrum, whose velocity field is known in closed
form. ``rough`` adds what a network adds: an error that varies with the latents and the noise level. All methods run on
the same noise; figures are the relative error of the final latents against 30 Euler steps, averaged over 8 samples.
``fitted`` is fitted on 8 other samples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from flashportrait.sampling.fitted import FittedPrediction, fit_with_moved_steps, run_exactly
from flashportrait.sampling.predictor import AdaptiveLatentPrediction, evenly_spread

SIZE, SAMPLES, STEPS, SHIFT = 256, 8, 30, 5.0
Flow = Callable[[Tensor, float], Tensor]
"""``flow(latents [n d], sigma) -> velocity [n d]``."""


@dataclass(frozen=True)
class GaussianFlow:
    """The velocity field of a mixture of Gaussians, and a network's error on top."""

    modes: int = 1
    """Gaussians in the mixture: with several, early steps decide where a sample goes."""
    spread: float = 0.3
    """Standard deviation of each Gaussian, relative to the distance of their means."""
    decay: float = 1.0
    """The spectrum falls as ``index^-decay``."""
    roughness: float = 0.0
    """Size of the network's error relative to the velocity."""

    @cached_property
    def _means_and_variances(self) -> tuple[Tensor, Tensor]:
        spectrum = torch.arange(1, SIZE + 1, dtype=torch.float64) ** -self.decay
        spectrum = spectrum / spectrum.mean()
        means = torch.randn(self.modes, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return means * spectrum.sqrt(), self.spread**2 * spectrum

    @cached_property
    def _waves(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        mixing = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) * 2 / math.sqrt(SIZE)
        phase, rate = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
        return mixing, 6 * phase, 8 * rate

    def __call__(self, latents: Tensor, sigma: float) -> Tensor:
        means, variances = self._means_and_variances
        kept, sigma = 1 - sigma, max(sigma, 1e-4)
        total = kept**2 * variances + sigma**2
        residuals = latents[:, None] - kept * means
        shares = torch.softmax(-0.5 * (residuals**2 / total).sum(dim=-1), dim=-1)
        clean = (shares[..., None] * (means + kept * variances / total * residuals)).sum(dim=1)
        velocity = (latents - clean) / sigma
        if not self.roughness:
            return velocity
        mixing, phase, rate = self._waves
        waves = torch.sin(latents @ mixing + phase + rate * math.log(sigma + 0.02))
        return velocity + self.roughness * velocity.norm(dim=-1, keepdim=True) * waves * math.sqrt(2 / SIZE)


FLOWS: dict[str, Flow] = {
    "smooth": GaussianFlow(),
    "rough": GaussianFlow(roughness=0.05),
    "sharp, rough": GaussianFlow(spread=0.1, decay=1.5, roughness=0.02),
    "six modes": GaussianFlow(modes=6, spread=0.5, roughness=0.02),
}
PREDICTORS = {
    "reuse": {"method": "newton", "order": 0},
    "newton 1": {"method": "newton", "order": 1},
    "newton 1, sigma": {"method": "newton", "order": 1, "coordinate": "sigma"},
    "newton 1, log-SNR": {"method": "newton", "order": 1, "coordinate": "log_snr"},
    "newton 2": {"method": "newton", "order": 2},
    "taylor 3": {"method": "taylor", "order": 3},
    "hermite 3": {"method": "hermite", "order": 3},
    "alp 3": {"method": "alp", "order": 3},
    "newton 0, corrected": {"method": "newton", "order": 0, "corrected": True},
    "newton 1, corrected": {"method": "newton", "order": 1, "corrected": True},
    "newton 1, log-SNR, corrected": {"method": "newton", "order": 1, "corrected": True, "coordinate": "log_snr"},
    "newton 2, corrected": {"method": "newton", "order": 2, "corrected": True},
}


def noise(seed: int) -> Tensor:
    """Starting points ``[n d]``."""
    return torch.randn(SAMPLES, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def schedule(steps: int) -> list[float]:
    """The sampler's sigmas, one more than steps."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.tolist()


def euler(flow: Flow, latents: Tensor, steps: int) -> Tensor:
    """Plain Euler."""
    for begin, end in itertools.pairwise(schedule(steps)):
        latents = latents + (end - begin) * flow(latents, begin)
    return latents


def multistep(flow: Flow, latents: Tensor, steps: int, scheduler_class: type) -> Tensor:
    """One of diffusers' multistep solvers."""
    scheduler = scheduler_class(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
    scheduler.set_timesteps(steps)
    latents = latents.view(SAMPLES, 1, SIZE)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        latents = scheduler.step(flow(latents[:, 0], sigma)[:, None], timestep, latents, return_dict=False)[0]
    return latents[:, 0]


def predicted(flow: Flow, latents: Tensor, predictor: AdaptiveLatentPrediction | FittedPrediction) -> Tensor:
    """Euler's steps, some of them predicted."""
    sigmas = schedule(STEPS)
    state = predictor.start(sigmas)
    for step, (begin, end) in enumerate(itertools.pairwise(sigmas)):
        latents = latents + (end - begin) * state.step(0, step, lambda x=latents, s=begin: flow(x, s))
    return latents


def fitted(flow: Flow, calls: int, *, move: bool) -> FittedPrediction:
    """Fitted to other samples of the flow."""
    sigmas = schedule(STEPS)
    run = run_exactly(lambda latents, step: flow(latents, sigmas[step]), noise(1), sigmas)
    return fit_with_moved_steps([run], sigmas, evenly_spread(calls, STEPS), sweeps=20 if move else 0)


def errors(flow: Flow, calls: int) -> dict[str, float]:
    """Of every method, at one number of calls."""
    start = noise(2)
    reference = euler(flow, start, STEPS)
    results = {
        "Euler": euler(flow, start, calls),
        "UniPC": multistep(flow, start, calls, UniPCMultistepScheduler),
        "DPM++ 2M": multistep(flow, start, calls, DPMSolverMultistepScheduler),
        "ALP as published (K = 30 / calls)": predicted(
            flow, start, AdaptiveLatentPrediction(interval=math.ceil(STEPS / calls))
        ),
    }
    for name, options in PREDICTORS.items():
        results[name] = predicted(flow, start, AdaptiveLatentPrediction(speedup=STEPS / calls, **options))
    for name, move in (("fitted", False), ("fitted, steps moved", True)):
        results[name] = predicted(flow, start, fitted(flow, calls, move=move))
    relative = {name: (x - reference).norm(dim=-1) / reference.norm(dim=-1) for name, x in results.items()}
    return {name: float(error.mean()) for name, error in relative.items()}


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two flows, one number of calls")
    parser.add_argument("--json", type=Path, help="where the rows go")
    args = parser.parse_args(argv)

    flows = dict(list(FLOWS.items())[:2]) if args.quick else FLOWS
    all_calls = (5,) if args.quick else (10, 6, 5, 3)
    table = {(name, calls): errors(flow, calls) for name, flow in flows.items() for calls in all_calls}
    print(f"{platform.machine()}, torch {torch.__version__}; relative error against {STEPS} Euler steps\n")
    for name in flows:
        print(f"\n**{name}**\n\n| method | " + " | ".join(f"{c} calls" for c in all_calls) + " |")
        print("|---" * (1 + len(all_calls)) + "|")
        for method in table[name, all_calls[0]]:
            print(f"| {method} | " + " | ".join(f"{table[name, c][method]:.4f}" for c in all_calls) + " |")
    if args.json is not None:
        rows = [
            {"flow": flow, "calls": calls, "method": method, "latent_rel_error": error}
            for (flow, calls), own in table.items()
            for method, error in own.items()
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
