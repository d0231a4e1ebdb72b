"""docs/models.md tells of every weight what the registry does."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashportrait.weights.hub import WEIGHTS
from flashportrait.weights.machine import Machine
from flashportrait.weights.plan import Work, make_plan

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_is_listed(name: str):
    weight = WEIGHTS[name]
    assert f"`{name}`" in PAGE
    if weight.sha256:
        assert f"`{weight.sha256}`" in PAGE
    row = next(line for line in PAGE.splitlines() if f"`{name}`" in line)
    short = ("Apache-2.0", "none stated")
    known = next((words for words in short if weight.licence.startswith(words)), weight.licence)
    assert known in row or name == "wan_14b"


def test_the_table_of_plans_is_what_is_planned():
    rows = [line.split(" | ") for line in PAGE.splitlines() if " latent frames | " in line]
    assert len(rows) >= 6
    for device, host, transformer, _, window, peak, *_ in rows:
        free = [int(cell.strip("| GB")) * 10**9 for cell in (device, host)]
        plan = make_plan(Machine("", *free, flops=100e12), Work(480, 832, 126))
        assert transformer.startswith(plan.storage)
        assert window == f"{plan.window} latent frames"
        assert peak == f"{plan.peak_vram / 1e9:.1f} GB"
