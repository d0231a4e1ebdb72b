"""A seeded handful of damaged files: each is read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_never_end_in_an_internal_error(tmp_path: Path, seed: int) -> None:
    count, faults = fuzz(tmp_path, seed, runs=120)
    assert count == 120
    assert not faults
