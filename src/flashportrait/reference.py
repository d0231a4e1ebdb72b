"""What shows the network the portrait, beside the noisy latents: reference latents and their mask, by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flashportrait.composition import all_painted, compose, compose_keeping_details
from flashportrait.drawing import DrawnClip
from flashportrait.errors import UserError
from flashportrait.models.streaming_vae import StreamingDecoder, TinyStreamingDecoder
from flashportrait.models.tiny_vae import TEMPORAL_RATIO, State, TinyVideoAutoencoder
from flashportrait.models.transformer import with_mask
from flashportrait.result import to_pictures
from flashportrait.sampling.windows import Window

KEPT_BYTES = 160 * 2**20
"""Of drawn pictures that are kept, from being encoded to being decoded beside; others are drawn anew."""


class Reference(Protocol):
    """Gives each window its mask and portrait latents."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latents."""
        ...

    def __call__(self, window: Window) -> Tensor:
        """[b 20 f h w] for a window of f latent frames: 4 mask channels, then 16 of the portrait."""
        ...

    def decode(self, index: int, latent: Tensor, decoder: StreamingDecoder) -> np.ndarray:
        """The result's frames, uint8 RGB [4 H W 3] (the first latent frame has one), of latent frame ``index``.

        latent: [1 16 1 h w], the ``decoder``'s next.
        """
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Reference:
        """The same, answering in this type on this device."""
        ...


@dataclass(frozen=True)
class PortraitFirst:
    """The paper's: a clip whose first frame is the portrait and whose other frames are zero, the same in every window.

    Every window starts from the portrait itself, and attention carries it to the other frames.
    """

    latents: Tensor
    """Mask and portrait latents of one window, [b 20 window h w]."""

    @property
    def grid(self) -> tuple[int, int]:
        return self.latents.shape[-2], self.latents.shape[-1]

    def __call__(self, window: Window) -> Tensor:
        if self.latents.shape[2] < len(window):
            raise UserError(f"the reference has {self.latents.shape[2]} latent frames; a window needs {len(window)}")
        return self.latents[:, :, : len(window)]

    def decode(self, index: int, latent: Tensor, decoder: StreamingDecoder) -> np.ndarray:
        return to_pictures(decoder.push(latent)[0])

    def to(self, device: torch.device, dtype: torch.dtype) -> PortraitFirst:
        return PortraitFirst(self.latents.to(device, dtype))


class PortraitDrawn:
    """The portrait in every frame, drawn on a face mesh (``DrawnClip``).

    For networks too small to learn from scratch how faces move. At strength 1 everything that the mesh can draw is
    drawn, and what remains to be made is what a picture of one expression lacks: teeth, lids, creases, what a turn
    uncovers. At 0 the expression block has all the work.

    The clip of drawn portraits is encoded as a stream, one latent frame at a time and only when a window asks. Latents
    before the furthest window asked for are dropped, so memory doesn't grow with the clip; when an order of work comes
    back for some, twice as many are kept from then on.

    Args:
        clip: what is drawn.
        portrait: the portrait as the network sees it, [1 3 s s] in [0, 1].
        vae: what encodes the clip.
        refine: share of the network's changes that the result takes over, in [0, 1].
    """

    def __init__(self, clip: DrawnClip, portrait: Tensor, vae: TinyVideoAutoencoder, refine: float = 1.0) -> None:
        self._clip, self._portrait, self._vae, self._refine = clip, portrait, vae, refine
        self._device, self._dtype = vae.device, torch.float32
        self._held: list[Tensor] = []
        self._first = 0
        self._furthest, self._reach = 0, 0
        self._drawn: dict[int, Tensor] = {}
        self._state: State = {}

    @property
    def grid(self) -> tuple[int, int]:
        side = self._portrait.shape[-1] // self._vae.spatial_ratio
        return side, side

    def __call__(self, window: Window) -> Tensor:
        latents = torch.cat(self._latents(window.start, window.stop), dim=1)
        return with_mask(latents.transpose(1, 2), self._clip.strength).to(self._device, self._dtype)

    def decode(self, index: int, latent: Tensor, decoder: StreamingDecoder) -> np.ndarray:
        drawn, square = self._draw(index), self._clip.canvas.seen
        if not isinstance(decoder, TinyStreamingDecoder) or self._vae.blend is None:
            restored = all_painted(decoder.push(latent))
            drawn = drawn[-restored.frames.shape[1] :]
            return self._clip.finish(compose(drawn, square, restored, self._refine))
        seen = self._seen(drawn)
        restored = decoder.restore(latent, seen)
        frames = restored.frames.shape[1]
        drawn, seen = drawn[-frames:], seen[0, -frames:]
        if self._clip.strength == 0:
            return self._clip.finish(compose(drawn, square, restored, self._refine))
        return self._clip.finish(compose_keeping_details(drawn, seen, square, restored, self._refine))

    def to(self, device: torch.device, dtype: torch.dtype) -> PortraitDrawn:
        self._device, self._dtype = device, dtype
        return self

    def _latents(self, start: int, stop: int) -> list[Tensor]:
        """Latent frames [1 1 c h w], ``start .. stop - 1``."""
        end, goal = self._first + len(self._held), stop
        self._furthest = max(self._furthest, start)
        if start < self._first:
            self._reach, goal = 2 * (self._furthest - start), max(stop, end)
        if not self._first <= start <= end:
            # The encoder forgets: begun this much earlier, it gives bit for bit what an unbroken stream gives.
            self._first, self._held, self._state = max(0, start - self._vae.encoder_memory), [], {}
        while self._first + len(self._held) < goal:
            self._held.append(self._encode(self._first + len(self._held)))
        passed = max(0, min(start, self._furthest - self._reach) - self._first)
        self._held, self._first = self._held[passed:], self._first + passed
        return self._held[start - self._first : stop - self._first]

    @torch.no_grad()
    def _encode(self, index: int) -> Tensor:
        """Latent frame ``index``, [1 1 c h w]."""
        pictures = self._seen(self._draw(index)).to(self._vae.device, self._vae.dtype)
        return self._vae.encode_chunk(pictures, self._state).float()

    def _seen(self, drawn: Tensor) -> Tensor:
        """The network's square of drawn pictures [4 3 h w].  [1 4 3 s s]"""
        return self._clip.canvas.seen_part(drawn, self._portrait.shape[-1], self._portrait)[None]

    def _draw(self, index: int) -> Tensor:
        """Pixel frames ``4 index - 3 .. 4 index``, the clip's first standing for any before it.  [4 3 h w]"""
        if index not in self._drawn:
            pictures = self._clip.draw(range(TEMPORAL_RATIO * (index - 1) + 1, TEMPORAL_RATIO * index + 1))
            self._drawn[index] = (pictures * 255).round().to(torch.uint8)
            if len(self._drawn) > max(1, KEPT_BYTES // self._drawn[index].numel()):
                del self._drawn[next(iter(self._drawn))]
        return self._drawn[index].float() / 255
