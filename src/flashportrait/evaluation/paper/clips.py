"""Drawn people performing: clips whose identity, expression and pose are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.conditioning import Conditions
from flashportrait.evaluation.fitting import draw_portrait
from flashportrait.models.streaming_vae import streaming_decoder
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.reference import PortraitDrawn
from flashportrait.result import to_pictures
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.windows import WindowPlan, latent_frame_count

RENDER_BATCH = 32
LONG_FRAMES = 600
"""From which on a clip counts as long."""


@dataclass(frozen=True)
class Clip:
    """One clip: what the model is given, and the truth."""

    kind: str
    """``calm``, ``talking``, ``large`` or ``long``."""
    conditions: Conditions
    noise: Tensor
    """[1 16 f h w]"""
    truth: np.ndarray
    """The performance drawn by formula  uint8 [t s s 3]"""
    portrait: np.ndarray
    """uint8 [s s 3]"""
    seed: int = 0
    """Of person, performance and noise."""

    @property
    def given(self) -> dict[str, Any]:
        """The conditions as arguments of ``sample_latents``."""
        arguments = dict(vars(self.conditions))
        return {"reference_latents": arguments.pop("reference"), **arguments}

    def __len__(self) -> int:
        """Frames."""
        return len(self.truth)


def make_clip(pipeline: FlashPortraitPipeline, kind: str, frames: int, seed: int, window: int) -> Clip:
    """Draws a clip and prepares what the model is told of it.

    Args:
        pipeline: the model.
        kind: of the performance.
        frames: its length.
        seed: of person, performance and noise.
        window: latent frames of the model's windows.
    """
    generator = torch.Generator().manual_seed(seed)
    identity, framed = draw_portrait(generator, pipeline.framing.resolution)
    motion = sample_performance(frames, kind=kind, generator=generator)
    truth = [render(identity, rows, size=pipeline.framing.resolution).frames for rows in motion.split(RENDER_BATCH)]
    latent_frames = latent_frame_count(frames)
    conditions = pipeline.encode_conditions(framed, motion.numpy(), min(window, latent_frames))
    grid, temperature = conditions.reference.grid, pipeline.settings().temperature
    noise = FrameNoise(seed, pipeline.transformer.config.out_channels, *grid, temperature)
    whole = WindowPlan(latent_frames, latent_frames, 0)[0]
    if isinstance(conditions.reference, PortraitDrawn):
        for _ in range(2):  # asked for again, references are kept: no method is to pay for drawing them
            conditions.reference(whole)
    return Clip(
        "long" if frames >= LONG_FRAMES else kind,
        conditions,
        noise(0, latent_frames),
        to_pictures(torch.cat(truth)),
        to_pictures(framed.pixels)[0],
        seed,
    )


@torch.no_grad()
def decode(pipeline: FlashPortraitPipeline, latents: Tensor, clip: Clip) -> np.ndarray:
    """A clip's latents [1 16 f h w] -> uint8 RGB [t h w 3]."""
    decoder, reference = streaming_decoder(pipeline.vae), clip.conditions.reference
    parts = [reference.decode(i, latent, decoder) for i, latent in enumerate(latents.split(1, dim=2))]
    return np.concatenate(parts)[: len(clip)]
