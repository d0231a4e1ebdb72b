"""The released transformer's configuration, in the released code's words and in diffusers'."""

from __future__ import annotations

from typing import Any

from flashportrait.checkpoints.tables import listing
from flashportrait.errors import UserError

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
