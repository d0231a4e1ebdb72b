"""Sizes of the released networks, read from the shapes of their weights: the released files come without configuration.

What shapes can't tell is the width of an attention head, which is the same in every model of a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flashportrait.errors import UserError

HEAD_WIDTH = 128
"""Of Wan's transformers, the 1.3B and the 14B alike."""
VISION_HEAD_WIDTH = 80
"""Of CLIP ViT-H."""


def transformer_words(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The released configuration's words for a transformer under the released names.

    Raises:
        UserError: a weight that decides a size isn't there.
    """
    of = _Shapes("transformer.pt", tensors)
    dim, in_dim, *patch = of("patch_embedding.weight")
    patch_size = tuple(patch)
    volume = patch_size[0] * patch_size[1] * patch_size[2]
    words = {
        "dim": dim,
        "in_dim": in_dim,
        "patch_size": patch_size,
        "ffn_dim": of("blocks.0.ffn.0.weight")[0],
        "num_layers": _count(tensors, "blocks."),
        "out_dim": of("head.head.weight")[0] // volume,
        "text_dim": of("text_embedding.0.weight")[1],
        "freq_dim": of("time_embedding.0.weight")[1],
        "image_dim": of("img_emb.proj.1.weight")[1],
        "expression_dim": of("blocks.0.cross_attn.emo_k_proj.weight")[1],
    }
    return words | ({"num_heads": dim // HEAD_WIDTH} if dim % HEAD_WIDTH == 0 else {})


def text_encoder_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """transformers' UMT5Config for ``models_t5_umt5-xxl-enc-bf16.pth``, or a smaller one; errors as above."""
    of = _Shapes("the text encoder", tensors)
    vocabulary, width = of("token_embedding.weight")
    buckets, heads = of("blocks.0.pos_embedding.embedding.weight")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": of("blocks.0.attn.q.weight")[0] // heads,
        "d_ff": of("blocks.0.ffn.fc1.weight")[0],
        "num_layers": _count(tensors, "blocks."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def image_encoder_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """transformers' CLIPVisionConfig for the visual half of the open-clip file; errors as above."""
    of = _Shapes("the image encoder", tensors)
    width, _, patch, _ = of("visual.patch_embedding.weight")
    side = round((of("visual.pos_embedding")[1] - 1) ** 0.5)
    config = {
        "hidden_size": width,
        "intermediate_size": of("visual.transformer.0.mlp.0.weight")[0],
        "num_hidden_layers": _count(tensors, "visual.transformer."),
        "image_size": side * patch,
        "patch_size": patch,
    }
    return config | ({"num_attention_heads": width // VISION_HEAD_WIDTH} if width % VISION_HEAD_WIDTH == 0 else {})


def vae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """diffusers' AutoencoderKLWan configuration for ``Wan2.1_VAE.pth``; errors as above."""
    of = _Shapes("the VAE", tensors)
    return {"base_dim": of("encoder.conv1.weight")[0], "z_dim": of("conv2.weight")[0]}


class _Shapes:
    """Shapes by name, or an error that names the file."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._name, self._tensors = name, tensors

    def __call__(self, key: str) -> tuple[int, ...]:
        if key not in self._tensors:
            raise UserError(
                f"{self._name} isn't the released one: it lacks {key}; fetch it: flashportrait download 14b"
            )
        return tuple(self._tensors[key].shape)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers there are below a prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})
