"""Which latent frames are denoised together, and how neighbouring windows share them.

Pixel frame 0 is latent frame 0; latent frame ``i >= 1`` holds pixel frames ``4i - 3 .. 4i``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.errors import UserError

TEMPORAL_STRIDE = 4
"""Pixel frames per latent frame, after the first."""


def latent_frame_count(pixel_frames: int) -> int:
    """Latent frames that hold ``pixel_frames`` pixel frames: the least ``f`` with ``4 (f - 1) + 1 >= t``."""
    if pixel_frames < 1:
        raise UserError(f"found {pixel_frames} frames; at least one is needed: give a longer driving video")
    return -(-(pixel_frames - 1) // TEMPORAL_STRIDE) + 1


def pixel_frame_count(latent_frames: int) -> int:
    """Pixel frames that ``latent_frames`` latent frames decode to: ``4 (f - 1) + 1``."""
    return TEMPORAL_STRIDE * (latent_frames - 1) + 1


@dataclass(frozen=True)
class Window:
    """Latent frames ``start .. stop - 1``, denoised together."""

    index: int
    """Place in the plan, from 0."""
    start: int
    """First latent frame."""
    stop: int
    """One past the last latent frame."""
    overlap: int
    """Latent frames at the window's start that the window before it holds too."""
    owned: int
    """Latent frames at the window's start that no later window holds: final once this window has had its say."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def seams(self) -> tuple[int, ...]:
        """Pixel frames where this window takes over: the first that it contributes to, and the first of it alone.

        None for the first window.
        """
        latent_frames = sorted({self.start, self.start + self.overlap}) if self.index else []
        return tuple(TEMPORAL_STRIDE * frame - TEMPORAL_STRIDE + 1 for frame in latent_frames)

    @property
    def owned_stop(self) -> int:
        """One past the last owned latent frame: the next window's start."""
        return self.start + self.owned

    @property
    def pixel_frames(self) -> range:
        """The driving frames shown by this window decoded on its own: ``4 start .. 4 (stop - 1)``, both included."""
        return range(TEMPORAL_STRIDE * self.start, TEMPORAL_STRIDE * (self.stop - 1) + 1)

    def blend_weights(self, smooth: bool = False) -> Tensor:
        """Weight of this window against the one before it on their shared frames, [overlap], float32, from 0 to 1.

        ``w_j = j / (v - 1)`` with ``v`` the frames really shared: for the last window, moved back to end on the last
        frame, these can be more than the plan's overlap. ``smooth`` bends the line to ``3 w^2 - 2 w^3``, which leaves
        and arrives level. A single shared frame is shared equally.
        """
        if self.overlap == 1:
            return torch.tensor([0.5])
        weights = torch.linspace(0.0, 1.0, self.overlap)
        return weights**2 * (3 - 2 * weights) if smooth else weights


@dataclass(frozen=True)
class WindowPlan:
    """Windows of ``window`` latent frames advancing by ``window - overlap`` over ``latent_frames``.

    The last window is moved back to end on the last frame; a clip no longer than one window is one window. A sequence
    of ``Window``; every latent frame is owned by exactly one of them, and owned frames follow one another.
    """

    latent_frames: int
    """Length of the clip."""
    window: int
    """Latent frames in a window."""
    overlap: int
    """Latent frames that a window shares with the one before it."""

    def __post_init__(self) -> None:
        if self.latent_frames < 1:
            raise UserError(f"found {self.latent_frames} latent frames; at least one is needed")
        if self.window < 1:
            raise UserError(f"window is {self.window} latent frames; at least 1 is needed")
        if not 0 <= self.overlap < self.window:
            raise UserError(
                f"overlap is {self.overlap} latent frames with a window of {self.window}; "
                f"choose an overlap from 0 to {self.window - 1}"
            )

    @property
    def stride(self) -> int:
        """Latent frames from one window's start to the next's."""
        return self.window - self.overlap

    def __len__(self) -> int:
        return 1 + max(0, -(-(self.latent_frames - self.window) // self.stride))

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start, stop = self._start(index), min(self._start(index) + self.window, self.latent_frames)
        overlap = self._start(index - 1) + self.window - start if index else 0
        owned_stop = self._start(index + 1) if index + 1 < len(self) else stop
        return Window(index, start, stop, overlap, owned_stop - start)

    def __iter__(self) -> Iterator[Window]:
        return (self[index] for index in range(len(self)))

    def last_reader(self, index: int) -> int:
        """Index of the last window that shares a latent frame with window ``index`` (itself, if none does)."""
        stop, last = self[index].stop, index
        while last + 1 < len(self) and self._start(last + 1) < stop:
            last += 1
        return last

    def _start(self, index: int) -> int:
        return max(0, min(index * self.stride, self.latent_frames - self.window))
