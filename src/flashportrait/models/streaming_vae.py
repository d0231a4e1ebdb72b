"""Video autoencoders as streams: latents in as they are ready, frames out at once, bit-identical to whole clips.

Latents here are the network's, normalised per channel, [b c f h w] float32; frames are [b t 3 h w] in [0, 1].
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from einops import rearrange
from torch import Tensor

from flashportrait.models.tiny_vae import TEMPORAL_RATIO, Restored, State, TinyVideoAutoencoder

VideoAutoencoder = AutoencoderKLWan | TinyVideoAutoencoder


class StreamingDecoder(Protocol):
    """Decodes one clip, piece by piece; start a new one for each clip."""

    def push(self, latents: Tensor, reference: Tensor | None = None) -> Tensor:
        """The next latent frames [b c f h w] -> their frames [b t 3 8h 8w] in [0, 1].

        ``t = 4 f``, or ``4 f - 3`` for the first piece, whose first latent frame holds a single frame. Autoencoders
        that decode beside reference frames need those, [b 4f 3 8h 8w].
        """
        ...


def streaming_decoder(vae: VideoAutoencoder) -> StreamingDecoder:
    """A decoder for one clip, on either autoencoder."""
    return TinyStreamingDecoder(vae) if isinstance(vae, TinyVideoAutoencoder) else WanStreamingDecoder(vae)


class TinyStreamingDecoder:
    """Carries one frame of memory per memory block."""

    def __init__(self, vae: TinyVideoAutoencoder) -> None:
        self._vae = vae
        self._state: State = {}

    @torch.no_grad()
    def push(self, latents: Tensor, reference: Tensor | None = None) -> Tensor:
        """As in the protocol."""
        _wake(self._vae)
        if reference is not None and self._vae.blend is not None:
            return self.restore(latents, reference).frames.clamp(0, 1)
        first = not self._state
        pieces = rearrange(latents.to(self._vae.dtype), "b c f h w -> b f c h w").split(1, dim=1)
        frames = torch.cat([self._vae.decode_chunk(z, self._state) for z in pieces], dim=1).clamp(0, 1)
        return (frames[:, TEMPORAL_RATIO - 1 :] if first else frames).float()

    @torch.no_grad()
    def restore(self, latents: Tensor, reference: Tensor) -> Restored:
        """As ``push``, with what the frames are put together from; only for an autoencoder that blends references."""
        _wake(self._vae)
        first = not self._state
        pieces = rearrange(latents.to(self._vae.dtype), "b c f h w -> b f c h w").split(1, dim=1)
        beside = reference.to(latents.device).split(TEMPORAL_RATIO, dim=1)
        restored = [self._vae.restore_chunk(z, self._state, r) for z, r in zip(pieces, beside, strict=True)]
        start = TEMPORAL_RATIO - 1 if first else 0
        return Restored(*(torch.cat(parts, dim=1)[:, start:].float() for parts in zip(*restored, strict=True)))


class WanStreamingDecoder:
    """Carries the causal convolutions' past features; ``AutoencoderKLWan.decode`` forgets them between calls."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._features: list[Tensor | str | None] | None = None

    @torch.no_grad()
    def push(self, latents: Tensor, reference: Tensor | None = None) -> Tensor:
        """As in the protocol; this autoencoder takes no reference."""
        _wake(self._vae)
        mean, std = _statistics(self._vae, latents)
        hidden = self._vae.post_quant_conv((latents * std + mean).to(self._vae.dtype))
        frames = torch.cat([self._decode_frame(frame) for frame in hidden.split(1, dim=2)], dim=2)
        if self._vae.config.patch_size is not None:
            frames = unpatchify(frames, patch_size=self._vae.config.patch_size)
        return rearrange(frames.float().clamp(-1, 1) * 0.5 + 0.5, "b c t h w -> b t c h w")

    def _decode_frame(self, hidden: Tensor) -> Tensor:
        first = self._features is None
        if self._features is None:
            self._vae.clear_cache()
            self._features = list(self._vae._feat_map)
        return self._vae.decoder(hidden, feat_cache=self._features, feat_idx=[0], first_chunk=first)


@torch.no_grad()
def encode_clip(vae: VideoAutoencoder, frames: Tensor) -> Tensor:
    """Frames [b t 3 h w] in [0, 1], t = 4 (f - 1) + 1, -> normalised latents [b c f h/8 w/8] float32."""
    _wake(vae)
    frames = frames.to(vae.dtype)
    if isinstance(vae, TinyVideoAutoencoder):
        return rearrange(vae.encode(frames), "b f c h w -> b c f h w").float()
    latents = vae.encode(rearrange(frames * 2 - 1, "b t c h w -> b c t h w")).latent_dist.mode().float()
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def encode_portrait(vae: VideoAutoencoder, portrait: Tensor, latent_frames: int) -> Tensor:
    """Latents [b c f h/8 w/8] float32 of a clip that shows a portrait [b 3 h w] in [0, 1], then mid-grey.

    Mid-grey is zero in [-1, 1], where the released model's clips live.
    """
    encoded_frames = latent_frames
    if isinstance(vae, TinyVideoAutoencoder):
        # Under grey all latents after these are one.
        encoded_frames = min(latent_frames, 1 + vae.encoder_memory)
    grey_frames = TEMPORAL_RATIO * (encoded_frames - 1)
    clip = F.pad(portrait[:, None], (0, 0, 0, 0, 0, 0, 0, grey_frames), value=0.5)
    latents = encode_clip(vae, clip)
    return torch.cat([latents, latents[:, :, -1:].expand(-1, -1, latent_frames - encoded_frames, -1, -1)], dim=2)


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def _wake(vae: VideoAutoencoder) -> None:
    """Let offloading move the autoencoder in: its hook watches ``forward``, which streaming never calls."""
    if hasattr(vae, "_hf_hook"):
        vae._hf_hook.pre_forward(vae)
