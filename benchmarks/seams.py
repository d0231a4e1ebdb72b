"""How much it shows where windows meet, in every order of work, where the right answer is known.

    python benchmarks/seams.py [--quick] [--window 21] [--overlaps 0 1 3 5 8 10] [--channels 4000] [--json FILE]

Clips are drawn from a Gaussian process in time, for which the best velocity that a network seeing one window can give
is a matrix. The figure is the largest root mean square change from one latent frame to the next over the typical one;
``whole`` is the clip sampled in one window. ``latents blended`` is the causal order with latents rather than velocities
blended at every step, which compounds the weights: the way not taken.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from flashportrait.sampling.denoise import blend_start, denoiser
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.solver import Step, steps_of
from flashportrait.sampling.windows import Window, WindowPlan


def covariance(frames: int, reach: float) -> Tensor:
    """Smooth motion of the given reach in latent frames, and a little that changes from frame to frame."""
    distance = (torch.arange(frames)[:, None] - torch.arange(frames)).abs().double()
    return 0.9 * torch.exp(-0.5 * (distance / reach) ** 2) + 0.1 * torch.exp(-distance / 0.7)


@functools.cache
def best_velocity(frames: int, reach: float, sigma: float) -> Tensor:
    """E[noise - x | x_sigma] = (x_sigma - E[x | x_sigma]) / sigma, as a matrix over the frames of a window."""
    unit, signal = torch.eye(frames, dtype=torch.float64), covariance(frames, reach)
    expected = (1 - sigma) * signal @ torch.linalg.inv((1 - sigma) ** 2 * signal + sigma**2 * unit)
    return ((unit - expected) / sigma).float()


def sample(order: str, plan: WindowPlan, noise: FrameNoise, reach: float) -> Tensor:
    """Latents [channels frames] in one of the orders, or ``latents blended``."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(30)

    def velocity(latents: Tensor, step: Step, window: Window) -> Tensor:
        return torch.einsum("bcfhw,gf->bcghw", latents, best_velocity(latents.shape[2], reach, step.sigma))

    if order == "latents blended":
        return blend_latents(velocity, steps_of(scheduler), plan, noise)[0, :, :, 0, 0]
    run = denoiser(order, velocity, scheduler, plan, noise)
    return torch.cat([latents for windows in run.run() for _, latents in windows], dim=2)[0, :, :, 0, 0]


def blend_latents(velocity, steps: list[Step], plan: WindowPlan, noise: FrameNoise) -> Tensor:
    """The causal order, each window's latents drawn towards its left neighbour's after every Euler step."""
    parts, band = [], []
    for window in plan:
        latents, left, band = noise(window.start, window.stop), band, []
        for step in steps:
            latents = latents + (step.next_sigma - step.sigma) * velocity(latents, step, window)
            if window.overlap:
                latents = blend_start(latents, left[step.index], window)
            band.append(latents[:, :, window.owned :])
        parts.append(latents[:, :, : window.owned])
    return torch.cat(parts, dim=2)


def largest_jump(clip: Tensor) -> float:
    """Of the root mean square changes from one frame to the next, the largest over the typical."""
    jumps = clip.diff(dim=1).square().mean(dim=0).sqrt()
    return float(jumps.max() / jumps.median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--window", type=int, default=21)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 3, 5, 8, 10])
    parser.add_argument("--quick", action="store_true", help="200 clips")
    parser.add_argument("--channels", type=int, help="independent clips: more make the figure sharper; default: 4000")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.channels = args.channels or (200 if args.quick else 4000)
    orders = ("diagonal", "causal", "latents blended")
    noise, rows = FrameNoise(0, args.channels, 1, 1), []
    print(f"{'reach':>6} {'overlap':>8} {'whole':>7} " + " ".join(f"{order:>16}" for order in orders))
    for reach in (2.0, 5.0):
        for overlap in args.overlaps:
            plan = WindowPlan(args.window + 4 * (args.window - overlap), args.window, overlap)
            whole = largest_jump(
                sample("diagonal", WindowPlan(plan.latent_frames, plan.latent_frames, 0), noise, reach)
            )
            jumps = {order: largest_jump(sample(order, plan, noise, reach)) for order in orders}
            rows.append({"reach": reach, "overlap": overlap, "whole": whole, **jumps})
            figures = " ".join(f"{jumps[order]:16.3f}" for order in orders)
            print(f"{reach:6.1f} {overlap:8} {whole:7.3f} {figures}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
