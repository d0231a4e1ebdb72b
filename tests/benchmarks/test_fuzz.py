"""A seeded handful of damaged files: each is read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import fuzz


@pytest.mark.parametrize(("seed", "models"), [(1, False), (2, True)])
def test_damaged_files_never_end_in_an_internal_error(tmp_path: Path, seed: int, models: bool) -> None:
    count, faults = fuzz(tmp_path, seed, runs=120, models=models)
    assert count == 120
    assert not faults
