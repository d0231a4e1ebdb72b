"""What a hard set is made of is decided by numbers that are the same everywhere."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import pytest
import torch

from flashportrait.avatars import sample_performance
from flashportrait.evaluation.hard.occlusion import HOLD_SECONDS, Occlusions
from flashportrait.evaluation.hard.recipe import COUNT, RATE, SECONDS, Recipe, standard_rows
from flashportrait.face.motion import BLENDSHAPE_NAMES


def test_the_standard_set_is_computed_here_as_it_was_where_the_table_was_made():
    table, recipe = list(standard_rows()), Recipe()
    assert len(table) == COUNT
    for row in [*table[:3], *table[-2:]]:
        performance = recipe.performance(int(row["name"].split("-")[0]))
        assert (performance.name, performance.kind) == (row["name"], row["kind"])
        assert len(performance) == int(row["frames"]) == recipe.length(performance.number)
        assert performance.digest == row["rows"]


def test_portable_performances_do_not_depend_on_the_processor():
    """PyTorch computes exponentials otherwise with and without vectors of a CPU."""
    code = (
        "import torch, hashlib; from flashportrait.avatars import sample_performance;"
        "rows = sample_performance(400, kind='large', generator=torch.Generator().manual_seed(3), portable=True);"
        "print(hashlib.sha256(rows.numpy().tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **setting},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for setting in ({}, {"ATEN_CPU_CAPABILITY": "default"})
    }
    assert len(digests) == 1


def test_portable_performances_move_as_much_as_others():
    spreads = []
    for portable in (True, False):
        rows = [
            sample_performance(2000, kind="large", generator=torch.Generator().manual_seed(seed), portable=portable)
            for seed in range(6)
        ]
        spreads.append(torch.cat(rows).std(0))
    assert (spreads[0][:6] / spreads[1][:6] - 1).abs().max() < 0.35
    jaw = 6 + BLENDSHAPE_NAMES.index("jawOpen")
    assert 0.5 < spreads[0][jaw] / spreads[1][jaw] < 2


def test_performances_are_hard():
    performances = [Recipe().performance(number) for number in range(1, 13)]
    for performance in performances:
        assert SECONDS[0] * RATE <= len(performance) <= SECONDS[1] * RATE
        assert performance.rows[:, 0].abs().max() > 0.4
        assert performance.rows[:, 3:6].median(0).values.abs().max() < 1e-6
        assert len(performance.occlusions.hands) > 3
    assert any(performance.occlusions.lock for performance in performances)
    assert len({performance.digest for performance in performances}) == len(performances)


def test_another_seed_gives_other_performances_and_a_size_none():
    assert Recipe(seed=1).performance(1).digest != Recipe().performance(1).digest
    assert Recipe(size=128).performance(1).digest == Recipe().performance(1).digest


@pytest.mark.parametrize("seed", range(5))
def test_hands_come_one_after_another(seed: int):
    hands = Occlusions.sample(120.0, random.Random(seed)).hands
    assert all(before.end < after.start for before, after in itertools.pairwise(hands))
    assert all(HOLD_SECONDS[0] <= hand.hold <= HOLD_SECONDS[1] for hand in hands)
