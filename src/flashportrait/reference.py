"""What shows the network the portrait, beside the noisy latents: reference latents and their mask, by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TEMPORAL_RATIO, State, TinyVideoAutoencoder
from flashportrait.models.transformer import with_mask
from flashportrait.rig.photo import PhotoRig
from flashportrait.sampling.windows import Window

KEPT_PICTURES = 16
"""Latent frames whose pictures are kept, from being encoded to being decoded beside; others are drawn anew."""
HEAD_POSE = slice(0, 6)
"""Columns of a motion row that pose the head: yaw, pitch, roll, x, y, log scale."""


class Reference(Protocol):
    """Gives each window its mask and portrait latents."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latents."""
        ...

    def __call__(self, window: Window) -> Tensor:
        """[b 20 f h w] for a window of f latent frames: 4 mask channels, then 16 of the portrait."""
        ...

    def frames(self, index: int) -> Tensor | None:
        """The pictures [1 4 3 8h 8w] in [0, 1] beside which latent frame ``index`` is decoded; None if it isn't."""
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

    def frames(self, index: int) -> None:
        return None

    def to(self, device: torch.device, dtype: torch.dtype) -> PortraitFirst:
        return PortraitFirst(self.latents.to(device, dtype))


class PortraitTurned:
    """The portrait in every frame, its head turned on a face mesh as the driver's, its expression its own.

    For networks too small to learn from scratch how heads turn: what remains to be made is expression, what the turn
    uncovers, and what the mesh gets wrong. The clip of turned portraits is encoded as a stream, one latent frame at a
    time and only when a window asks. Latents before the furthest window asked for are dropped, so memory doesn't grow
    with the clip; when an order of work comes back for some, twice as many are kept from then on.

    Args:
        rig: the portrait, ready to be turned.
        head_pose: a row for each pixel frame, [t 6]; the last one stays.
        vae: what encodes the clip.
        size: pixels a side.
    """

    def __init__(self, rig: PhotoRig, head_pose: Tensor, vae: TinyVideoAutoencoder, size: int):
        self._rig, self._head_pose, self._vae, self._size = rig, head_pose, vae, size
        self._device, self._dtype = vae.device, torch.float32
        self._held: list[Tensor] = []
        self._first = 0
        self._furthest, self._reach = 0, 0
        self._drawn: dict[int, Tensor] = {}
        self._state: State = {}

    @property
    def grid(self) -> tuple[int, int]:
        side = self._size // self._vae.spatial_ratio
        return side, side

    def __call__(self, window: Window) -> Tensor:
        latents = torch.cat(self._latents(window.start, window.stop), dim=1)
        return with_mask(latents.transpose(1, 2)).to(self._device, self._dtype)

    def frames(self, index: int) -> Tensor | None:
        return None if self._vae.blend is None else self._draw(index)

    def to(self, device: torch.device, dtype: torch.dtype) -> PortraitTurned:
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
        pictures = self._draw(index).to(self._vae.device, self._vae.dtype)
        return self._vae.encode_chunk(pictures, self._state).float()

    def _draw(self, index: int) -> Tensor:
        """Pixel frames ``4 index - 3 .. 4 index``, the clip's first standing for any before it.  [1 4 3 s s]"""
        if index not in self._drawn:
            frames = torch.arange(TEMPORAL_RATIO * (index - 1) + 1, TEMPORAL_RATIO * index + 1)
            rows = self._head_pose[frames.clamp(0, len(self._head_pose) - 1)]
            self._drawn[index] = self._rig.turn(rows, self._size)[None].half()
            if len(self._drawn) > KEPT_PICTURES:
                del self._drawn[next(iter(self._drawn))]
        return self._drawn[index].float()
