"""The embedded model's image embedding: what CLIP is to the 14B, learned from scratch and small."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PortraitImageEncoder(ModelMixin, ConfigMixin):
    """A convolutional pyramid over the portrait: one token every 16 pixels of it, with its position.

    Args:
        width: width of the tokens, the transformer's ``image_dim``.
        channels: widths of the three steps before the last, at strides 2, 4 and 8.
        pool: the portrait is reduced by this factor first.
    """

    @register_to_config
    def __init__(self, width: int = 256, channels: tuple[int, int, int] = (32, 64, 128), pool: int = 1):
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channel in channels:
            layers += [nn.Conv2d(previous, channel, 3, 2, 1), nn.GroupNorm(8, channel), nn.SiLU()]
            layers += [nn.Conv2d(channel, channel, 3, 1, 1), nn.GroupNorm(8, channel), nn.SiLU()]
            previous = channel
        self.layers = nn.Sequential(*layers, nn.Conv2d(previous, width, 3, 2, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``image [b 3 h w]`` in [0, 1], h and w multiples of p = 16 pool -> tokens ``[b (h/p w/p) width]``."""
        if self.config.pool > 1:
            image = F.avg_pool2d(image, self.config.pool)
        features = self.layers(2 * image - 1)
        grid = features.shape[-2:]
        positions = get_2d_sincos_pos_embed(features.shape[1], grid, device=features.device, output_type="pt")
        return features.flatten(2).transpose(1, 2) + positions.to(features.dtype)
