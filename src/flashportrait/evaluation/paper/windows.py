"""Long clips in other ways than by weighted windows, and how well windows join."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashportrait.conditioning import GuidedVelocity
from flashportrait.evaluation import metrics
from flashportrait.evaluation.paper.clips import Clip
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.denoise import Order, diagonal_rounds
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.solver import Solver, steps_of
from flashportrait.sampling.windows import WindowPlan


@torch.no_grad()
def motion_frames(pipeline: FlashPortraitPipeline, clip: Clip, sampling: dict[str, Any]) -> Tensor:
    """Latents [1 16 f h w] of a clip, each window going on from the last frames of the one before.

    By replacement, which needs no network trained for it: at every step the frames that are known, x, are put in the
    window's place for them at that step's noise level, ``(1 - sigma) x + sigma noise``.

    Args:
        pipeline: the model.
        clip: what it is given.
        sampling: of ``sample_latents``; ``window``, ``overlap`` (frames that are known of a window), ``text_scale``,
            ``emotion_scale`` and ``num_inference_steps`` count.
    """
    device = pipeline._execution_device
    plan = WindowPlan(clip.noise.shape[2], sampling["window"], sampling["overlap"])
    conditions = clip.conditions.padded_to(plan).to(device, pipeline.transformer.dtype)
    pipeline.scheduler.set_timesteps(sampling["num_inference_steps"], device=device)
    steps = steps_of(pipeline.scheduler)
    velocity = GuidedVelocity(
        pipeline.transformer,
        pipeline.portrait_encoder,
        conditions,
        Guidance(sampling["text_scale"], sampling["emotion_scale"], conditions.same_prompts),
        steps=len(steps),
        batched=sampling["batched"],
    )
    parts, known = [], clip.noise[:, :, :0].to(device)
    for window in plan:
        noise, shared = clip.noise[:, :, window.start : window.stop].to(device), known.shape[2]
        solver = Solver(pipeline.scheduler, noise.clone())
        for step in steps:
            held = (1 - step.sigma) * known + step.sigma * noise[:, :, :shared]
            solver.latents = torch.cat([held, solver.latents[:, :, shared:]], dim=2)
            solver.step(velocity(solver.latents, step, window), step)
        latents = torch.cat([known, solver.latents[:, :, shared:]], dim=2)
        parts.append(latents[:, :, : window.owned])
        known = latents[:, :, window.owned :]
    return torch.cat(parts, dim=2)


def seam(frames: np.ndarray, truth: np.ndarray, plan: WindowPlan) -> float | None:
    """How much more the picture changes where windows meet than around, over the same of the truth; 1 where none shows.

    The mean over the plan's seams; None for a clip of one window.

    Args:
        frames: uint8 [t h w 3].
        truth: what they should be.
        plan: the windows.
    """
    seams = sorted({frame for window in plan for frame in window.seams if 0 < frame < len(frames)})
    if not seams:
        return None
    ratios = [
        metrics.seam_ratios([metrics.frame_change(a, b) for a, b in itertools.pairwise(clip)], seams, 0.05)
        for clip in (frames, truth)
    ]
    return float(np.mean(ratios[0] / np.maximum(ratios[1], 0.05)))


def passes_to_first_frame(order: Order | None, plan: WindowPlan, steps: int) -> int:
    """Velocities of windows that are needed before the first frame is final; None: windows one after another."""
    if order in (None, "causal"):
        return steps
    if order == "synchronous":
        return (steps - 1) * len(plan) + 1
    passes = 0
    for pairs in diagonal_rounds(plan, steps):
        passes += len(pairs)
        if (0, steps - 1) in pairs:
            break
    return passes
