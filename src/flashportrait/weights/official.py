"""Models from the released files: configuration in, strict conversion, nothing copied that needn't be.

Each loader builds its model on the meta device, so building costs no memory and no random initialisation, and hands
it to ``load_strictly``. Everything here is reached lazily by the models' ``from_official``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flashportrait.errors import UserError
from flashportrait.weights.checkpoint import Source, load_strictly
from flashportrait.weights.convert import TEXT_ENCODER, TRANSFORMER, VAE, image_encoder_table, listing

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel, UMT5EncoderModel

    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

TRANSFORMER_14B: dict[str, Any] = {
    "dim": 5120,
    "ffn_dim": 13824,
    "num_heads": 40,
    "num_layers": 40,
    "in_dim": 36,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "text_len": 512,
    "eps": 1e-6,
    "cross_attn_norm": True,
    "qk_norm": True,
    "patch_size": (1, 2, 2),
    "image_dim": 1280,
    "expression_dim": 2048,
}
"""The released transformer in the released code's own words; the last two are constants there."""

FIXED_IN_TRANSFORMER: dict[str, Any] = {"model_type": "i2v", "window_size": (-1, -1)}
"""Words of the released configuration that have one possible value here."""

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


def transformer_config(**official: Any) -> dict[str, Any]:
    """The released code's configuration as ours; what isn't given is the 14B's.

    Raises:
        UserError: an unknown word, or a value that the architecture can't take.
    """
    for name, value in FIXED_IN_TRANSFORMER.items():
        given = official.pop(name, value)
        if given != value and list(given) != list(value):
            raise UserError(f"{name}={given!r} is not supported: FlashPortrait's transformer has {name}={value!r}")
    if unknown := sorted(official.keys() - TRANSFORMER_14B.keys()):
        raise UserError(
            f"unknown configuration {listing(unknown)}; the released names are {', '.join(TRANSFORMER_14B)}"
        )
    config = TRANSFORMER_14B | official
    if config["dim"] % config["num_heads"]:
        raise UserError(f"dim={config['dim']} must be a multiple of num_heads={config['num_heads']}")
    return {
        "patch_size": tuple(config["patch_size"]),
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "in_channels": config["in_dim"],
        "out_channels": config["out_dim"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": config["cross_attn_norm"],
        "qk_norm": "rms_norm_across_heads" if config["qk_norm"] else None,
        "eps": config["eps"],
        "image_dim": config["image_dim"],
        "added_kv_proj_dim": config["dim"],
        "text_len": config["text_len"],
        "expression_dim": config["expression_dim"],
    }


def load_transformer(
    source: Source,
    *,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **config: Any,
) -> FlashPortraitTransformer3DModel:
    """The transformer from the released ``transformer.pt``.

    Args:
        source: path (.pt, .pth, .safetensors, a folder of shards) or state dict, in the released naming.
        torch_dtype: of the weights; norms, modulation and time embedding stay float32 where one is given, as in
            diffusers. None keeps the file's.
        device: where the weights go, tensor by tensor; None leaves them in the mapped file.
        config: the released configuration's words (dim, ffn_dim, num_heads, ...) where it isn't the 14B.

    Raises:
        UserError: naming a wrong, missing or extra key, a wrong shape or an unknown word.
    """
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

    with torch.device("meta"):
        model = FlashPortraitTransformer3DModel(**transformer_config(**config))
    model.eval()
    ours = model.config
    # The rotary tables are computed, not stored, so the meta device would lose them.
    model.rope = WanRotaryPosEmbed(ours.attention_head_dim, ours.patch_size, ours.rope_max_seq_len).to(device)
    load_strictly(
        model,
        source,
        TRANSFORMER,
        dtype=torch_dtype,
        device=device,
        keep_in_float32=model._keep_in_fp32_modules,
    )
    return model


def transformer_to_official(model: FlashPortraitTransformer3DModel) -> dict[str, Tensor]:
    """The transformer's state dict under the released names; the tensors are the model's own."""
    return TRANSFORMER.to_official(model.state_dict())


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
