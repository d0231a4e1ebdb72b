"""Jobs of a toy model that take long enough to be interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batches import frames_of, rows
from flashportrait.job import Job, run

SIZE = 64
"""Below it x264 gives other files for the same frames now and then."""


@pytest.fixture(scope="session")
def sources(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Three jobs of a second or two, of different lengths."""
    folder = tmp_path_factory.mktemp("batch")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "portrait.png")
    common = {"model": str(toy_model), "size": SIZE, "device": "cpu", "threads": 1, "steps": 15}
    lengths = (41, 61, 81)
    return [
        Job(folder / "portrait.png", rows(folder, frames, seed), folder / f"out-{seed}.mp4", **common)
        for seed, frames in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def alone(sources: list[Job]) -> list[np.ndarray]:
    """Frames of each job run by itself."""
    for job in sources:
        run(job)
    return [frames_of(job.output) for job in sources]


@pytest.fixture
def jobs(sources: list[Job], tmp_path: Path) -> list[Job]:
    """The same jobs with outputs of this test's own."""
    return [replace(job, output=tmp_path / job.output.name) for job in sources]


@pytest.fixture
def table(jobs: list[Job], tmp_path: Path) -> Path:
    """The jobs as a file."""
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n".join(json.dumps(job.to_dict()) for job in jobs))
    return path
