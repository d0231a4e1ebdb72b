"""Networks and pipelines of the real classes at toy size, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flashportrait.face.motion import BLENDSHAPES
from flashportrait.models.image_encoder import PortraitImageEncoder
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.pipeline import FlashPortraitPipeline


def toy_transformer(**changes: Any) -> FlashPortraitTransformer3DModel:
    """Three blocks 32 wide, without image tokens."""
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 3,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "expression_dim": 8,
        "text_len": 4,
    }
    return FlashPortraitTransformer3DModel(**config | changes).eval()


def toy_pipeline(**defaults: Any) -> FlashPortraitPipeline:
    """Makes 32 px videos; ``defaults`` are its sampling settings."""
    transformer = toy_transformer(
        attention_head_dim=24,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        image_dim=16,
        added_kv_proj_dim=48,
        expression_dim=16,
    )
    portrait_encoder = PortraitEncoder(
        *BLENDSHAPES.groups.values(),
        token_dim=16,
        resampler_dim=16,
        resampler_depth=1,
        resampler_heads=2,
        resampler_head_dim=8,
        mouth_queries=2,
        emotion_queries=1,
    )
    with torch.no_grad():  # far from the zeros and ones of initialisation, so that every path counts
        for parameter in [*transformer.parameters(), *portrait_encoder.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    pipeline = FlashPortraitPipeline(
        transformer,
        portrait_encoder.eval(),
        FlowMatchEulerDiscreteScheduler(shift=5),
        TinyVideoAutoencoder(8, (8, 8, 8), align="start").eval(),
        PortraitImageEncoder(16, (8, 8, 8)).eval(),
        defaults=defaults,
        framing={"mode": "whole", "resolution": 32},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
