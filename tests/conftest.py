"""Shared fixtures: a pipeline of real classes at toy size, saved as a user would have it, inputs, real media."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flashportrait.face.motion import BLENDSHAPES, MotionFeatures
from flashportrait.media.writer import VideoWriter

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait for a core which another process has wait by spinning. Set before torch is imported.
    shared_by = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // shared_by)))

TOGETHER = {"studio": ("studio",), "ray": ("test_cluster.py", "test_fleets.py", "test_batch.py")}
"""Tests that one of several processes runs (``pytest -n``): they share a server, or can't have two Ray clusters."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have a file's tests run by one process, and those of :data:`TOGETHER`."""
    for item in items:
        places = {item.path.name, item.path.parent.name}
        group = next((name for name, parts in TOGETHER.items() if places & {*parts}), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real test media beside the checkout; tests that need it skip where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "media").is_dir():
        pytest.skip("needs the folder of real test media beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder of settings, for all tests and what they start; not the developer's own."""
    folder = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHPORTRAIT_CONFIG", str(folder))
        patch.delenv("FLASHPORTRAIT_SIGN_CERT", raising=False)
        patch.delenv("FLASHPORTRAIT_SIGN_KEY", raising=False)
        yield folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with random weights that makes 32 px videos in two steps."""
    from toys import toy_pipeline

    pipeline = toy_pipeline(num_inference_steps=2, window=5, overlap=2, emotion_scale=1.0)
    folder = tmp_path_factory.mktemp("models") / "toy"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    """A picture of nobody."""
    path = tmp_path / "portrait.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Eleven rows of motion at 30000/1001."""
    path = tmp_path / "motion.safetensors"
    rows = np.random.default_rng(0).uniform(0, 0.5, (11, BLENDSHAPES.width)).astype(np.float32)
    MotionFeatures(rows, Fraction(30000, 1001)).save(path)
    return path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Frames as they are handed to the encoder, all runs' one after another.

    What comes out of it can't be compared: for frames as small as a toy's, x264 reads memory that it has not written,
    and gives other files for the same frames now and then. (The same ones where fresh memory always holds the same,
    as with glibc's MALLOC_PERTURB_; not seen at 64 px or more.)
    """
    frames: list[np.ndarray] = []
    write = VideoWriter.write

    def keep(self: VideoWriter, frame: np.ndarray) -> None:
        frames.append(frame.copy())
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", keep)
    return frames


@pytest.fixture
def no_faces_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read motion from any clip: every frame is decoded, and its mean brightness becomes its row."""
    from flashportrait import inputs

    def extract(
        frames: Iterable[np.ndarray], rate: Fraction, tracker: Any, progress: Callable[[int], object] | None = None
    ) -> MotionFeatures:
        rows = []
        for frame in frames:
            rows.append(np.full(BLENDSHAPES.width, frame.mean() / 255))
            if progress is not None:
                progress(1)
        return MotionFeatures(np.array(rows), rate, missing=(1,))

    monkeypatch.setattr(inputs, "FaceLandmarker", lambda *_, **__: None)
    monkeypatch.setattr(inputs, "FaceTracker", lambda *args: None)
    monkeypatch.setattr(inputs, "extract_motion", extract)
