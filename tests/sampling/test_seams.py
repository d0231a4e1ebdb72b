"""Seams between windows, where the right answer is known: clips drawn from a Gaussian process in time.

The best velocity that a network seeing one window can give is then a matrix, and what a clip sampled in windows should
look like is what it looks like sampled in one.
"""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from flashportrait.sampling.denoise import denoiser
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.windows import WindowPlan

NOISE = FrameNoise(seed=0, channels=1500, height=1, width=1)
WINDOW, FRAMES = 21, 69


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


def sample(order: str, window: int, overlap: int, reach: float) -> Tensor:
    """[channels frames]"""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(20)

    def velocity(latents, step, window):
        return torch.einsum("bcfhw,gf->bcghw", latents, best_velocity(latents.shape[2], reach, step.sigma))

    run = denoiser(order, velocity, scheduler, WindowPlan(FRAMES, window, overlap), NOISE)
    return torch.cat([latents for windows in run.run() for _, latents in windows], dim=2)[0, :, :, 0, 0]


def largest_jump(clip: Tensor) -> float:
    """Of the root mean square changes from one frame to the next, the largest over the typical."""
    jumps = clip.diff(dim=1).square().mean(dim=0).sqrt()
    return float(jumps.max() / jumps.median())


@pytest.mark.parametrize("reach", [2.0, 5.0])
@pytest.mark.parametrize("overlap", [5, 8])
def test_no_order_shows_where_windows_meet(overlap, reach):
    whole = largest_jump(sample("diagonal", FRAMES, 0, reach))
    assert whole < 1.06
    assert largest_jump(sample("diagonal", WINDOW, overlap, reach)) < whole + 0.04
    assert largest_jump(sample("causal", WINDOW, overlap, reach)) < whole + 0.08


def test_the_measure_sees_windows_without_overlap():
    assert largest_jump(sample("causal", WINDOW, 0, 5.0)) > 1.3
