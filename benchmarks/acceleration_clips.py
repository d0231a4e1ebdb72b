"""Drawn people performing: clips whose identity, expression and pose are known, as ``acceleration.py`` needs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashportrait.avatars.identity import sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.conditioning import Conditions
from flashportrait.models.streaming_vae import streaming_decoder
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.result import to_pictures
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.windows import latent_frame_count

RENDER_BATCH = 32
FULL = (*[("calm", 65)] * 4, *[("talking", 65)] * 5, *[("large", 65)] * 5, *[("talking", 601), ("large", 601)])
QUICK = (("talking", 17), ("large", 17))
"""(kind of performance, frames) of each clip."""


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
    identity = sample_identities(1, generator)
    at_rest = sample_performance(1, kind="calm", generator=generator)
    at_rest[:, :3] *= 0.5
    at_rest[:, 3:6] = 0  # the portrait's head is where the crop puts it
    motion = sample_performance(frames, kind=kind, generator=generator)
    size = pipeline.framing.resolution
    pictures = torch.cat(
        [render(identity, rows, size=size).frames for rows in torch.cat([at_rest, motion]).split(RENDER_BATCH)]
    )
    latent_frames = latent_frame_count(frames)
    conditions = pipeline.encode_conditions(pictures[:1], motion.numpy(), min(window, latent_frames))
    drawn = to_pictures(pictures)
    noise = FrameNoise(seed, pipeline.transformer.config.out_channels, *conditions.reference_latents.shape[-2:])
    return Clip("long" if frames >= 600 else kind, conditions, noise(0, latent_frames), drawn[1:], drawn[0])


@torch.no_grad()
def decode(pipeline: FlashPortraitPipeline, latents: Tensor, frames: int) -> np.ndarray:
    """Latents [1 16 f h w] -> uint8 RGB [t h w 3]."""
    decoder = streaming_decoder(pipeline.vae)
    return np.concatenate([to_pictures(decoder.push(latent)[0]) for latent in latents.split(1, dim=2)])[:frames]
