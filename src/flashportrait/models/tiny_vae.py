"""A tiny causal video autoencoder: plain 2D convolutions with one frame of memory.

The architecture of the TAEHV family (https://github.com/madebyollin/taehv, MIT), whose files ``fast_vae.pth`` and
``taew2_1.pth`` speak the latents of Wan 2.1; at smaller widths it is the autoencoder of the embedded model. Latents
have 4x fewer frames and 8x fewer rows and columns than pictures: ``pixel_frames = 4 * (latent_frames - 1) + 1``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from flashportrait.checkpoints.files import Source, load_strictly, read_checkpoint
from flashportrait.checkpoints.tables import KeyTable
from flashportrait.errors import UserError

TEMPORAL_RATIO = 4
SPATIAL_RATIO = 8

State = dict[int, Tensor]
"""What a stream remembers: for each memory block, by position, its last input frame ``[b c h w]``."""


class Restored(NamedTuple):
    """Frames and what they were put together from: ``frames = painted + mask (bent - painted)``."""

    frames: Tensor
    """``[b t 3 h w]``, unclamped"""
    bent: Tensor
    """``[b t 3 h w]``: the bent references they were made with"""
    flow: Tensor
    """``[b t 2 h/u w/u]`` for an upscale of u: how far from each place, right and down in pixels, they were taken"""
    painted: Tensor
    """``[b t 3 h w]``: what is decoded from the latents alone"""
    mask: Tensor
    """``[b t 1 h w]`` in [0, 1]"""


class MemoryBlock(nn.Module):
    """Residual block that sees each frame beside the one before it (zeros before the first)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """``x [b t c h w]`` and the frame before it ``[b c h w]`` -> ``[b t c h w]``."""
        past = torch.cat([previous[:, None], x[:, :-1]], dim=1)
        residual = self.conv(torch.cat([x, past], dim=2).flatten(0, 1)).unflatten(0, x.shape[:2])
        return F.relu(x + residual)


class TimePool(nn.Module):
    """``stride`` frames become one: stacked on channels, then mixed by a 1x1 convolution."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b (t s) c h w -> b t (s c) h w", s=self.stride)
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class TimeGrow(nn.Module):
    """One frame becomes ``stride``, by a 1x1 convolution unstacked from channels."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return rearrange(y, "b t (s c) h w -> b (t s) c h w", s=self.stride)


class ReferenceBlend(nn.Module):
    """Puts a frame together from what is decoded and from a reference frame, bent to fit it.

    ``frame = decoded + m (bent - decoded)``: a mask ``m`` in [0, 1] and a flow that says where each pixel of ``bent``
    comes from, both seen from the decoder's features beside the reference. Where the reference shows what is needed,
    though elsewhere, sharpness costs no latents; an error in them moves a feature rather than smears it.

    Args:
        channels: of the decoder's features.
        width: of the block.
        upscale: rows and columns of the frame for each of the features.
    """

    def __init__(self, channels: int, width: int, upscale: int):
        super().__init__()
        self.upscale = upscale
        self.near = nn.Conv2d(channels + 3 * upscale**2, width, 3, padding=1)
        self.far = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=4, dilation=4),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1),
        )
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.plan = nn.Conv2d(width, 3 + 3 * upscale**2, 3, padding=1)
        nn.init.zeros_(self.plan.weight)
        nn.init.zeros_(self.plan.bias)

    def forward(self, features: Tensor, decoded: Tensor, reference: Tensor) -> Restored:
        """Frames ``[n 3 uh uw]`` from features ``[n c h w]``, decoded frames ``[n 3 h w]`` and references
        ``[n 3 uh uw]``."""
        seen = F.pixel_unshuffle(reference.to(features) - 0.5, self.upscale)
        near = F.relu(self.near(torch.cat([features, seen], dim=1)))
        far = F.interpolate(self.far(near), near.shape[-2:], mode="nearest")
        flow, mask, detail = self.plan(F.relu(self.join(near + far))).split([2, 1, 3 * self.upscale**2], dim=1)
        decoded = F.interpolate(decoded, scale_factor=float(self.upscale), mode="nearest")
        decoded = (decoded + F.pixel_shuffle(detail, self.upscale)).float()
        mask, shift = self._enlarge(mask.sigmoid().float()), self.upscale * flow.float()
        bent = bend(reference.float(), self._enlarge(shift))
        return Restored(decoded + mask * (bent - decoded), bent, shift, decoded, mask)

    def _enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(self.upscale), mode="bilinear") if self.upscale > 1 else x


def bend(pictures: Tensor, flow: Tensor) -> Tensor:
    """``pictures [n c h w]`` taken at each pixel's place plus its ``flow [n 2 h w]``, right and down in pixels."""
    height, width = pictures.shape[-2:]
    across = (flow[:, 0] + torch.arange(width, device=flow.device) + 0.5) * (2 / width) - 1
    along = (flow[:, 1] + torch.arange(height, device=flow.device)[:, None] + 0.5) * (2 / height) - 1
    return F.grid_sample(pictures, torch.stack([across, along], -1), padding_mode="border", align_corners=False)


class SoftClamp(nn.Module):
    """``3 tanh(z / 3)``: keeps wild latents from blowing up the decoder."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _run(layers: nn.Sequential, x: Tensor, state: State) -> Tensor:
    """Runs ``x [b t c h w]`` through ``layers``, reading and renewing ``state``."""
    for index, layer in _cheapest_order(layers):
        if isinstance(layer, MemoryBlock):
            previous = state.get(index)
            last = x[:, -1]
            x = layer(x, torch.zeros_like(last) if previous is None else previous)
            state[index] = last
        elif isinstance(layer, (TimePool, TimeGrow)):
            x = layer(x)
        else:
            x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return x


def _cheapest_order(layers: nn.Sequential) -> list[tuple[int, nn.Module]]:
    """Layers with their positions, ``TimeGrow`` before the ``Upsample`` it follows.

    A 1x1 convolution gives the same before as after pixels are repeated, at a quarter of the cost.
    """
    order = list(enumerate(layers))
    for (i, (_, first)), (j, (_, second)) in itertools.pairwise(enumerate(order)):
        if isinstance(first, nn.Upsample) and isinstance(second, TimeGrow):
            order[i], order[j] = order[j], order[i]
    return order


def _build_encoder(channels: int, latent_channels: int, pictures: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3 * pictures, channels, 3, padding=1), nn.ReLU()]
    for time_stride in (2, 2, 1):
        layers += [TimePool(channels, time_stride), nn.Conv2d(channels, channels, 3, 2, 1, bias=False)]
        layers += [MemoryBlock(channels) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(channels, latent_channels, 3, padding=1))


def _build_decoder(channels: tuple[int, int, int], latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [SoftClamp(), nn.Conv2d(latent_channels, channels[0], 3, padding=1), nn.ReLU()]
    for width, next_width, time_stride in zip(channels, (*channels[1:], channels[-1]), (1, 2, 2), strict=True):
        layers += [MemoryBlock(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), TimeGrow(width, time_stride)]
        layers += [nn.Conv2d(width, next_width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(channels[-1], 3, 3, padding=1))


def _infer_config(state_dict: dict[str, Tensor]) -> dict[str, int | tuple[int, ...]]:
    """The widths of an autoencoder from the shapes of its weights."""

    def width(key: str) -> int:
        if key not in state_dict:
            raise UserError(f"this is not a released tiny video autoencoder: it lacks {key}; give fast_vae.pth")
        return state_dict[key].shape[0]

    return {
        "encoder_channels": width("encoder.0.weight"),
        "decoder_channels": (width("decoder.1.weight"), width("decoder.8.weight"), width("decoder.14.weight")),
        "latent_channels": width("encoder.17.weight"),
    }


class TinyVideoAutoencoder(ModelMixin, ConfigMixin):
    """Encodes frames ``[b t 3 h w]`` in [0, 1] to latents ``[b f 16 h/8 w/8]`` and back.

    Args:
        encoder_channels: width of the encoder; 64 in the published files.
        decoder_channels: widths of the decoder's three stages; (256, 128, 64) in the published files.
        latent_channels: channels of the latents.
        align: how a clip that doesn't fill whole latent frames is completed before encoding. ``"end"`` repeats the
            last frame until there is a multiple of four, as the published files expect. ``"start"`` repeats the
            first frame three times, so that latent frame 0 is frame 0 alone and latent frame i holds frames
            ``4i - 3 .. 4i``, which is also what the decoder gives back; frames must then number ``4k + 1``.
        latents_mean, latents_std: per channel; latents are returned as ``(z - mean) / std``. None: as they are.
        reference_channels: width of a block that builds frames from reference frames, pictures that resemble those to
            be decoded, too (``ReferenceBlend``); 0 for none, as published. With it, every decoding needs the
            references.
        upscale: pictures have this many rows and columns for each that is encoded and decoded; what is finer comes
            from the references. Latents then have ``8 upscale`` times fewer rows and columns than pictures; the
            shapes below are written for 1.
        differences: have a second encoder, which is given the reference frames, too, and so needs to say only
            what differs from them. Its latents are what is decoded; the first one's are of references.

    The decoder gives four frames for each latent frame and drops the first three, so ``f`` latent frames become
    ``4 (f - 1) + 1`` frames.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        encoder_channels: int = 64,
        decoder_channels: tuple[int, int, int] = (256, 128, 64),
        latent_channels: int = 16,
        align: str = "end",
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        reference_channels: int = 0,
        upscale: int = 1,
        differences: bool = False,
    ):
        super().__init__()
        if align not in ("start", "end"):
            raise ValueError(f"align is {align!r}; it must be 'start' or 'end'")
        if upscale > 1 and not reference_channels:
            raise ValueError(f"upscale is {upscale} without reference_channels; what is finer comes from references")
        if differences and not reference_channels:
            raise ValueError("differences is True without reference_channels; both go by reference frames")
        self.encoder = _build_encoder(encoder_channels, latent_channels)
        self.difference_encoder = _build_encoder(encoder_channels, latent_channels, 2) if differences else None
        self.decoder = _build_decoder(tuple(decoder_channels), latent_channels)
        self.blend = ReferenceBlend(decoder_channels[-1], reference_channels, upscale) if reference_channels else None

    @property
    def spatial_ratio(self) -> int:
        """Rows and columns of a picture for each of its latents."""
        return SPATIAL_RATIO * self.config.upscale

    @classmethod
    def from_official(cls, source: Source) -> TinyVideoAutoencoder:
        """Loads ``fast_vae.pth``, ``taew2_1.pth`` or another file of the family for the same ratios.

        Time-growing kernels that a published file holds for more frames keep those of the last ones.

        Args:
            source: file, folder of shards, or state dict.

        Raises:
            UserError: a key is missing, extra or of the wrong shape; the error names it.
        """
        state_dict = read_checkpoint(source)
        with torch.device("meta"):
            model = cls(**_infer_config(state_dict)).eval()
        for name, layer in model.decoder.named_children():
            key = f"decoder.{name}.conv.weight"
            if isinstance(layer, TimeGrow) and key in state_dict:
                state_dict[key] = state_dict[key][-layer.conv.out_channels :]
        load_strictly(model, state_dict, KeyTable.same_names("tiny video autoencoder", model.state_dict()))
        return model

    def to_official(self) -> dict[str, Tensor]:
        """The state dict under the released names, which are ours; the tensors are the model's own."""
        return self.state_dict()

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        mean, std = self.config.latents_mean, self.config.latents_std
        if mean is None or std is None:
            return None
        return tuple(like.new_tensor(values).view(1, 1, -1, 1, 1) for values in (mean, std))

    def _check_size(self, frames: Tensor) -> None:
        height, width = frames.shape[-2:]
        if height % self.spatial_ratio or width % self.spatial_ratio:
            raise ValueError(f"frames are {height}x{width}; height and width must be multiples of {self.spatial_ratio}")

    def _aligned(self, frames: Tensor) -> Tensor:
        """Completes ``frames [b t 3 h w]`` to a multiple of four, at the end or the start of the clip."""
        self._check_size(frames)
        count = frames.shape[1]
        if self.config.align == "end":
            missing = -count % TEMPORAL_RATIO
            return torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1) if missing else frames
        if count % TEMPORAL_RATIO != 1:
            raise ValueError(f"the clip has {count} frames; 4k + 1 are needed: repeat the last frame to complete it")
        return torch.cat([frames[:, :1].expand(-1, TEMPORAL_RATIO - 1, -1, -1, -1), frames], dim=1)

    @property
    def encoder_memory(self) -> int:
        """Latent frames after which the encoder has forgotten an input."""
        return 1 + sum(isinstance(layer, MemoryBlock) for layer in self.encoder)

    def encode_chunk(self, frames: Tensor, state: State, reference: Tensor | None = None) -> Tensor:
        """Aligned frames ``[b 4n 3 h w]`` -> raw-scaled latents ``[b n c h/8 w/8]``; ``state`` carries on.

        With ``reference``, of the frames' shape, latents say what differs from it.
        """
        encoder = self.encoder
        if reference is not None and self.difference_encoder is not None:
            frames, encoder = torch.cat([frames, reference.to(frames)], dim=2), self.difference_encoder
        if self.config.upscale > 1:
            frames = F.avg_pool2d(frames.flatten(0, 1), self.config.upscale).unflatten(0, frames.shape[:2])
        latents = _run(encoder, frames, state)
        statistics = self._statistics(latents)
        return latents if statistics is None else (latents - statistics[0]) / statistics[1]

    def decode_chunk(self, latents: Tensor, state: State, reference: Tensor | None = None) -> Tensor:
        """Latents ``[b n c h w]`` -> unclamped frames ``[b 4n 3 8h 8w]``; ``state`` carries on.

        ``reference`` has the frames' shape, in [0, 1].

        Raises:
            ValueError: a reference is needed and missing, or not of the frames' shape.
        """
        if self.blend is None:
            return _run(self.decoder, self._denormalised(latents), state)
        return self.restore_chunk(latents, state, reference).frames

    def _denormalised(self, latents: Tensor) -> Tensor:
        statistics = self._statistics(latents)
        return latents if statistics is None else latents * statistics[1] + statistics[0]

    def restore_chunk(self, latents: Tensor, state: State, reference: Tensor | None) -> Restored:
        """As ``decode_chunk``, frames ``[b 4n 3 8h 8w]`` with what they are put together from.

        Raises:
            ValueError: a reference is needed and missing, or not of the frames' shape.
        """
        assert self.blend is not None
        b, n, _, h, w = latents.shape
        needed = (b, TEMPORAL_RATIO * n, 3, self.spatial_ratio * h, self.spatial_ratio * w)
        if reference is None or reference.shape != needed:
            found = "none" if reference is None else list(reference.shape)
            raise ValueError(f"this autoencoder decodes beside reference frames {list(needed)}; found {found}")
        features = _run(self.decoder[:-1], self._denormalised(latents), state).flatten(0, 1)
        restored = self.blend(features, self.decoder[-1](features), reference.flatten(0, 1))
        return Restored(*(part.unflatten(0, needed[:2]) for part in restored))

    def restore(self, latents: Tensor, reference: Tensor) -> Restored:
        """What training compares with the truth.

        Args:
            latents: ``[b f c h w]``, decoded all at once.
            reference: as the results, ``[b 4(f-1)+1 3 8h 8w]``, in [0, 1].

        Raises:
            ValueError: there is no block that bends references, or they are not of the frames' shape.
        """
        if self.blend is None:
            raise ValueError("reference_channels is 0: nothing is bent; use decode")
        first = reference[:, :1].expand(-1, TEMPORAL_RATIO - 1, -1, -1, -1)
        restored = self.restore_chunk(latents, {}, torch.cat([first, reference], dim=1))
        return Restored(*(part[:, TEMPORAL_RATIO - 1 :] for part in restored))

    def encode(self, frames: Tensor, parallel: bool = False, reference: Tensor | None = None) -> Tensor:
        """Frames ``[b t 3 h w]`` in [0, 1] -> latents ``[b f c h/8 w/8]``.

        Give the ``reference`` frames, of the same shape, for latents to decode beside them; without, latents are those
        of references. They are the same where there is no second encoder.

        One latent frame at a time (memory doesn't grow, and equal to a stream bit for bit), or all at once if
        ``parallel``, which training wants.

        Raises:
            ValueError: height or width is no multiple of ``spatial_ratio``, or t not ``4k + 1`` with ``align="start"``.
        """
        frames = self._aligned(frames)
        reference = None if reference is None else self._aligned(reference)
        if parallel:
            return self.encode_chunk(frames, {}, reference)
        state: State = {}
        pieces = frames.split(TEMPORAL_RATIO, dim=1)
        references = [None] * len(pieces) if reference is None else reference.split(TEMPORAL_RATIO, dim=1)
        encoded = [self.encode_chunk(piece, state, r) for piece, r in zip(pieces, references, strict=True)]
        return torch.cat(encoded, dim=1)

    def decode(self, latents: Tensor, parallel: bool = False, reference: Tensor | None = None) -> Tensor:
        """Latents ``[b f c h w]`` -> frames ``[b 4(f-1)+1 3 8h 8w]`` in [0, 1]; ``parallel`` as in ``encode``.

        ``reference``, where one is needed, has the frames' shape.
        """
        if reference is not None:
            first = reference[:, :1].expand(-1, TEMPORAL_RATIO - 1, -1, -1, -1)
            reference = torch.cat([first, reference], dim=1)
        if parallel:
            return self.decode_chunk(latents, {}, reference)[:, TEMPORAL_RATIO - 1 :].clamp(0, 1)
        state: State = {}
        pieces = latents.split(1, dim=1)
        references = [None] * len(pieces) if reference is None else reference.split(TEMPORAL_RATIO, dim=1)
        decoded = [self.decode_chunk(z, state, r) for z, r in zip(pieces, references, strict=True)]
        return torch.cat(decoded, dim=1)[:, TEMPORAL_RATIO - 1 :].clamp(0, 1)

    def encode_stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pieces of a clip ``[b n 3 h w]``, of any lengths -> its latent frames ``[b 1 c h/8 w/8]`` as they come."""
        state: State = {}
        pending: Tensor | None = None
        for piece in frames:
            self._check_size(piece)
            if pending is None and self.config.align == "start":
                piece = torch.cat([piece[:, :1].expand(-1, TEMPORAL_RATIO - 1, -1, -1, -1), piece], dim=1)
            pending = piece if pending is None else torch.cat([pending, piece], dim=1)
            while pending.shape[1] >= TEMPORAL_RATIO:
                yield self.encode_chunk(pending[:, :TEMPORAL_RATIO], state)
                pending = pending[:, TEMPORAL_RATIO:]
        if pending is not None and pending.shape[1]:
            missing = TEMPORAL_RATIO - pending.shape[1]
            if self.config.align == "start":
                raise ValueError(
                    f"the clip ends {missing} frames short of 4k + 1: repeat the last frame to complete it"
                )
            last = pending[:, -1:].expand(-1, missing, -1, -1, -1)
            yield self.encode_chunk(torch.cat([pending, last], dim=1), state)

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pieces of latents ``[b n c h w]``, of any lengths -> frames ``[b t 3 8h 8w]`` in [0, 1] as they come."""
        state: State = {}
        first = True
        for piece in latents:
            for latent in piece.split(1, dim=1):
                frames = self.decode_chunk(latent, state).clamp(0, 1)
                yield frames[:, TEMPORAL_RATIO - 1 :] if first else frames
                first = False
