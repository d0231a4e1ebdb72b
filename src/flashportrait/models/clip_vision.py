"""CLIP's view of the portrait as the released model takes it: 257 tokens from the last layer but one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Tensor, size: int = 224) -> Tensor:
    """The picture squeezed to a square and normalised.

    The whole picture, whatever its aspect ratio, by a cubic without antialiasing: what the released code does.

    Args:
        image: ``[b 3 h w]`` in [0, 1].
        size: side of the square.

    Returns:
        ``[b 3 size size]`` with CLIP's mean and deviation removed.
    """
    # Overshoot of the cubic is kept, as the model was trained with it.
    image = F.interpolate(image.float(), (size, size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (image - mean) / std


def clip_tokens(encoder: CLIPVisionModel, image: Tensor) -> Tensor:
    """Tokens of the last layer but one, before any final norm.

    Args:
        encoder: CLIP ViT-H.
        image: ``[b 3 h w]`` in [0, 1].

    Returns:
        ``[b 257 1280]``: one for the class, then 16x16 patches row by row.
    """
    pixels = clip_pixels(image, encoder.config.image_size).to(encoder.dtype)
    return encoder(pixels, output_hidden_states=True).hidden_states[-2]
