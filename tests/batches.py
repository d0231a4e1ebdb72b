"""Tools of the batch's tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from flashportrait.face.motion import BLENDSHAPES, MotionFeatures
from flashportrait.job import Job
from flashportrait.media.reader import VideoReader


def rows(folder: Path, frames: int, seed: int = 0) -> Path:
    """A motion template."""
    path = folder / f"motion-{frames}-{seed}.safetensors"
    values = np.random.default_rng(seed).uniform(0, 0.5, (frames, BLENDSHAPES.width)).astype(np.float32)
    MotionFeatures(values, Fraction(25)).save(path)
    return path


def frames_of(path: Path) -> np.ndarray:
    """All frames of a video."""
    return np.stack(list(VideoReader(path)))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def is_running(job: Job) -> bool:
    """Whether a run has begun its work."""
    return (job.output.with_name(f"{job.output.name}.work") / "motion.safetensors").is_file()


def command(*words: object) -> subprocess.Popen[str]:
    """``flashportrait batch`` in a process of its own."""
    arguments = [sys.executable, "-m", "flashportrait", "batch", *map(str, words)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
