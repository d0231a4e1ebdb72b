"""Noise that depends only on the seed and on the latent frame, so that windows, orders and resumed runs agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.errors import UserError

Noise = Callable[[int, int], Tensor]
"""``noise(start, stop) -> [b c f h w]`` float32 for latent frames ``start .. stop - 1``."""

_GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True)
class FrameNoise:
    """Normal noise for any range of latent frames.

    ``noise(start, stop)`` is [1 c f h w] float32 with ``f = stop - start``. It is drawn on the CPU, frame by frame, so
    it doesn't depend on the device, on the range asked for, or on what was asked for before.
    """

    seed: int
    """Any integer."""
    channels: int
    height: int
    """Latent height."""
    width: int
    """Latent width."""
    temperature: float = 1.0
    """Standard deviation."""

    def __call__(self, start: int, stop: int) -> Tensor:
        return torch.stack([self._frame(index) for index in range(start, stop)], dim=1).unsqueeze(0)

    def _frame(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mix(self.seed, index))
        return self.temperature * torch.randn(self.channels, self.height, self.width, generator=generator)


@dataclass(frozen=True)
class GivenNoise:
    """Noise that is there already: ``noise(start, stop)`` is a part of it."""

    latents: Tensor
    """[b c f h w]"""

    def __call__(self, start: int, stop: int) -> Tensor:
        return self.latents[:, :, start:stop]


def choose_noise(
    shape: tuple[int, int, int, int],
    seed: int,
    generator: torch.Generator | None = None,
    latents: Tensor | None = None,
    temperature: float = 1.0,
) -> FrameNoise | GivenNoise:
    """The noise of a clip of latents [c f h w]: ``latents`` [1 c f h w], or from a seed that ``generator`` may draw.

    ``temperature`` scales what is drawn; ``latents`` are taken as they are.

    Raises:
        UserError: ``latents`` of another shape.
    """
    if latents is not None:
        if tuple(latents.shape) != (1, *shape):
            raise UserError(f"latents of shape {list(latents.shape)} found; this clip needs {[1, *shape]}")
        return GivenNoise(latents)
    if generator is not None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    channels, _, height, width = shape
    return FrameNoise(seed, channels, height, width, temperature)


def _mix(seed: int, index: int) -> int:
    """A 63-bit seed for stream ``index`` of ``seed`` (splitmix64: neighbouring inputs give unrelated outputs)."""
    state = (_finalise(seed & _MASK_64) + (index + 1) * _GOLDEN_RATIO_64) & _MASK_64
    return _finalise(state) >> 1


def _finalise(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return state ^ (state >> 31)
