"""What a hard set is made of: who performs what, hidden by what, for how long; decided by numbers alone.

Everything here is the same to the bit on every machine: draws come from Python's own generator and from PyTorch's
uniform numbers, and rows are made of them by sums, products and quotients (``sample_performance``, ``portable``).
"""

from __future__ import annotations

import csv
import hashlib
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashportrait.avatars.performance import sample_performance
from flashportrait.evaluation.hard.occlusion import Occlusions

COUNT = 100
"""Performances of the whole set."""
SECONDS = (60.0, 180.0)
"""Shortest and longest performance."""
SIZE = 384
"""Pixels a side."""
RATE = 25
KINDS = ("rig", "drawn")
"""By number modulo two: portraits on the face mesh, and people drawn by formula."""
ROWS_FILE = "rows.csv"
"""The whole set's performances, as they are on every machine."""


@dataclass(frozen=True)
class Performance:
    """One performance."""

    number: int
    """From 1."""
    rows: Tensor
    """[t 57]; x, y and log scale are counted from their medians, as extractors count them."""
    occlusions: Occlusions
    """Of the driver."""
    seeds: tuple[int, int]
    """Of the person who is animated, and of the one who performs."""
    turn: tuple[float, float, float]
    """How the portrait of one on the rig is turned, nods and smiles, each in [-1, 1]."""

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        return KINDS[self.number % 2]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:03}-{self.kind}"

    @property
    def digest(self) -> str:
        """SHA-256 of its rows (float32, little-endian) and of the numbers of its occlusions (float64)."""
        hidden = self.occlusions.numbers()
        rows = self.rows.contiguous().numpy().astype("<f4").tobytes()
        return hashlib.sha256(rows + struct.pack(f"<{len(hidden)}d", *hidden)).hexdigest()

    def __len__(self) -> int:
        """Frames."""
        return len(self.rows)


@dataclass(frozen=True)
class Recipe:
    """Of a whole set."""

    seconds: tuple[float, float] = SECONDS
    """Shortest and longest performance."""
    size: int = SIZE
    """Pixels a side."""
    seed: int = 0
    portraits: tuple[Path, ...] = ()
    """Pictures that perform on the rig; drawn ones unless given."""

    @property
    def is_standard(self) -> bool:
        """Whether its performances are those of ``standard_rows``."""
        return (self.seconds, self.seed) == (SECONDS, 0)

    def length(self, number: int) -> int:
        """Frames of a performance."""
        return round(self._source(number).uniform(*self.seconds) * RATE)

    def performance(self, number: int) -> Performance:
        """The performance with a number, from 1."""
        source = self._source(number)
        frames = round(source.uniform(*self.seconds) * RATE)
        generator = torch.Generator().manual_seed(source.getrandbits(32))
        rows = sample_performance(frames, RATE, "large", generator, portable=True)
        rows[:, 3:6] -= rows[:, 3:6].median(0).values
        occlusions = Occlusions.sample(frames / RATE, source)
        turn = (source.uniform(-1, 1), source.uniform(-1, 1), source.uniform(-1, 1))
        return Performance(number, rows, occlusions, (source.getrandbits(32), source.getrandbits(32)), turn)

    def _source(self, number: int) -> random.Random:
        return random.Random(f"flashportrait hard set 1, seed {self.seed}, performance {number}")

    def to_dict(self, portraits: dict[str, str]) -> dict[str, Any]:
        """What decides the set, fit for JSON; ``portraits``: SHA-256 of each picture by its name."""
        return {"seconds": list(self.seconds), "size": self.size, "seed": self.seed, "portraits": portraits}


def standard_rows() -> Iterator[dict[str, str]]:
    """The table of the whole standard set that ships with the package: number, name, frames, SHA-256 of its rows."""
    table = resources.files("flashportrait.evaluation.hard").joinpath(ROWS_FILE)
    yield from csv.DictReader(table.read_text().splitlines())
