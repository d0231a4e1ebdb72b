"""Wan 2.1's text encoder, image encoder and VAE from the released files, as classes of transformers and diffusers.

Each loader builds its model on the meta device, so building costs no memory and no random initialisation, and hands
it to ``load_strictly``. Our own classes do the same in their ``from_official``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flashportrait.checkpoints.files import Source, load_strictly
from flashportrait.checkpoints.tables import TEXT_ENCODER, VAE, image_encoder_table

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel, UMT5EncoderModel

TEXT_ENCODER_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}
IMAGE_ENCODER_VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}


VISION_PREFIX = "vision_model."


def load_text_encoder(
    source: Source,
    *,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **config: Any,
) -> UMT5EncoderModel:
    """UMT5-XXL from ``models_t5_umt5-xxl-enc-bf16.pth``; ``config`` is transformers' UMT5Config's where it differs."""
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**TEXT_ENCODER_XXL | config)).eval()
    load_strictly(model, source, TEXT_ENCODER, dtype=torch_dtype, device=device)
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def load_image_encoder(
    source: Source,
    *,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **config: Any,
) -> CLIPVisionModel:
    """CLIP ViT-H from the visual half of the open-clip xlm-roberta file; ``config`` is CLIPVisionConfig's."""
    model = empty_image_encoder(device, **IMAGE_ENCODER_VIT_H | config)
    load_strictly(model, source, image_encoder_table(vision_prefix(model)), dtype=torch_dtype, device=device)
    return model


def empty_image_encoder(device: torch.device | str | None = None, **config: Any) -> CLIPVisionModel:
    """CLIP's vision tower without weights: they are on the meta device."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        model = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
    embeddings = model.get_submodule(vision_prefix(model) + "embeddings")
    # Positions are counted, not stored, so the meta device would lose them.
    positions = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    embeddings.register_buffer("position_ids", positions, persistent=False)
    return model


def vision_prefix(names: nn.Module | Iterable[str]) -> str:
    """``vision_model.`` where the tower is nested, as it is in some releases of transformers, else empty."""
    if isinstance(names, nn.Module):
        names = names.state_dict()
    return VISION_PREFIX if any(name.startswith(VISION_PREFIX) for name in names) else ""


def load_vae(
    source: Source,
    *,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **config: Any,
) -> AutoencoderKLWan:
    """The causal video autoencoder from ``Wan2.1_VAE.pth``; ``config`` is diffusers' AutoencoderKLWan's."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        model = AutoencoderKLWan(**config).eval()
    load_strictly(model, source, VAE, dtype=torch_dtype, device=device)
    return model
