"""A server for all tests of the service that leave it usable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batches import rows

pytest.importorskip("fastapi")
pytest.importorskip("sqlalchemy")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def face() -> Path:
    """A drawn person."""
    return EXAMPLES / "drawn_1.png"


@pytest.fixture(scope="session")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of motion templates: ``short`` and ``long``."""
    folder = tmp_path_factory.mktemp("templates")
    rows(folder, 9).rename(folder / "short.safetensors")
    rows(folder, 81).rename(folder / "long.safetensors")
    return folder


@pytest.fixture(scope="session")
def words(toy_model: Path, motions: Path) -> list[object]:
    """Of servers' command lines: the embedded model, and a toy that takes its time."""
    return ["--model", "nano", "--model", toy_model, "--templates", motions, "--max-seconds", 20]


@pytest.fixture(scope="session")
def server(words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """It asks for no keys, and has one worker."""
    from serving import serving

    with serving("--data", tmp_path_factory.mktemp("service"), *words) as running:
        yield running
