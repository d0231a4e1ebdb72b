"""The face landmarker and real pictures for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flashportrait.face.blendshapes import FaceLandmarker


@pytest.fixture(scope="session")
def landmarker() -> FaceLandmarker:
    return FaceLandmarker()


@pytest.fixture(scope="session")
def portrait(shared: Path) -> Callable[[str], np.ndarray]:
    """Reads a real portrait by its name, as uint8 RGB."""

    def read(name: str) -> np.ndarray:
        (path,) = (shared / "media" / "portraits").glob(f"{name}.*")
        return np.asarray(Image.open(path).convert("RGB"))

    return read


@pytest.fixture(scope="session")
def clip_frames(shared: Path) -> Callable[[str, int], list[np.ndarray]]:
    """Decodes the first frames of a real driving clip by its name, as uint8 RGB."""

    def read(name: str, count: int) -> list[np.ndarray]:
        with av.open(str(shared / "media" / "driving" / f"{name}.mp4")) as container:
            return [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), count)]

    return read
