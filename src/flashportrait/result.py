"""What a run gives back: frames as they come, and a report that is complete when they have come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

Item = TypeVar("Item")


@dataclass
class RunReport:
    """Measurements of one run; filled in while the frames come."""

    frames: int = 0
    """Frames given so far; in the end as many as the driving clip has."""
    windows: int = 0
    """Windows in the plan."""
    seams: list[tuple[int, ...]] = field(default_factory=list)
    """For each window, the frames where a seam could show: the first that it has a say in, and the first that is its
    alone."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage: ``motion``, ``conditions``, ``denoise``, ``decode``, and what
    callers add."""
    steps_computed: int = 0
    """Window steps at which the network ran."""
    steps_predicted: int = 0
    """Window steps at which its velocity was predicted."""
    network_calls: int = 0
    """Forward passes of the network; branches in one batch are one pass."""
    peak_memory_bytes: int = 0
    """Most memory held at once by this process so far: its resident set."""
    peak_device_memory_bytes: int = 0
    """Most memory allocated at once on the GPU, 0 without one."""
    missing_faces: list[int] = field(default_factory=list)
    """Driving frames in which no face was seen; their motion is interpolated."""
    seconds_to_first_frame: float | None = None
    """From the call to the first frame."""
    warnings: list[str] = field(default_factory=list)
    """One line each."""
    quality: dict[str, Any] = field(default_factory=dict)
    """Measures of the frames themselves, put here by whoever measures them (see ``evaluation``)."""
    started: float = field(default_factory=time.perf_counter, repr=False)
    """When the run began, on the performance counter."""

    @contextmanager
    def stage(self, name: str, tell: Callable[[str, int, int], object] | None = None) -> Iterator[None]:
        """Add the time spent inside to a stage; ``tell(name, done, 1)`` is called before and after it."""
        if tell is not None:
            tell(name, 0, 1)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if tell is not None:
            tell(name, 1, 1)

    def timed(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; the time spent on making them is added to a stage."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def note_step(self, network_calls: int, *, predicted: bool) -> None:
        """Count a window's step; ``network_calls`` is the total so far."""
        self.network_calls = network_calls
        self.steps_predicted += predicted
        self.steps_computed += not predicted
        self.note_memory()

    def note_frame(self) -> None:
        """Count a frame that leaves the pipeline."""
        if self.seconds_to_first_frame is None:
            self.seconds_to_first_frame = time.perf_counter() - self.started
        self.frames += 1

    def note_memory(self) -> None:
        """Bring the memory peaks up to date."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_resident_bytes())
        if torch.cuda.is_available():
            self.peak_device_memory_bytes = max(self.peak_device_memory_bytes, torch.cuda.max_memory_allocated())

    def to_dict(self) -> dict[str, Any]:
        """All but the clock, fit for JSON."""
        values = asdict(self)
        del values["started"]
        return values


class PortraitVideo:
    """Frames of a run, uint8 RGB [h w 3], made while they are iterated over.

    Iterate once to take each frame as soon as it is ready, or read ``frames`` to have all of them.
    """

    def __init__(
        self,
        frames: Iterator[np.ndarray],
        *,
        length: int,
        rate: Fraction,
        report: RunReport,
        portrait: np.ndarray,
    ) -> None:
        self.portrait = portrait
        """The portrait as the model saw it, uint8 RGB [h w 3]."""
        self.rate = rate
        """Frames per second, exact."""
        self.report = report
        """Complete when the last frame has come."""
        self._length = length
        self._frames = frames
        self._collected: np.ndarray | None = None

    def __len__(self) -> int:
        """Frames in all."""
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._frames if self._collected is None else iter(self._collected)

    def collect(self) -> np.ndarray:
        """Make all frames that have not come yet; from then on the video may be iterated over any number of times."""
        if self._collected is None:
            self._collected = np.stack(list(self._frames))
        return self._collected

    @property
    def frames(self) -> np.ndarray:
        """All frames, uint8 RGB [t h w 3]."""
        return self.collect()

    def close(self) -> None:
        """Give up the frames that have not come yet, and free what they need."""
        self._frames.close()


def to_pictures(frames: Tensor) -> np.ndarray:
    """Frames [t 3 h w] in [0, 1] -> uint8 RGB [t h w 3]."""
    return rearrange((frames * 255).round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c").cpu().numpy()


def peak_resident_bytes() -> int:
    """Most memory this process ever had resident, 0 where the system doesn't tell."""
    try:  # Linux; its getrusage also counts what the process that started this one held then
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
