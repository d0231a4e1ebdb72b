"""Training runs: the schedule, the average, and going on where a run was cut."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from flashportrait.training.loop import EMA, LoopConfig, Stage, build_optimizers, learning_rate_scale


def stage(folder: Path, steps: int) -> Stage:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)

    def loss(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (module(batch) - 1).square().mean()}

    config = LoopConfig(steps=steps, warmup=1, cooldown=1e-9, log_every=1)
    return Stage(module, build_optimizers(module, 0.05, None, 0.0), loss, folder, config)


def batches(first: int = 0):
    return (torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in itertools.count(first))


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = stage(tmp_path / "whole", 8)
    whole.run(batches())
    stage(tmp_path / "cut", 5).run(batches())
    resumed = stage(tmp_path / "cut", 8)
    resumed.resume()
    assert resumed.step == 5
    resumed.run(batches(5))
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert torch.equal(resumed.ema.module.weight, whole.ema.module.weight)


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    stage(tmp_path, 60).run(batches())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 60
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    stage(tmp_path, 2).run(batches())
    other = Stage(
        torch.nn.Linear(4, 2),
        [],
        lambda batch: {},
        tmp_path,
        LoopConfig(steps=4),
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.resume()


def test_learning_rate_rises_holds_and_falls_to_zero() -> None:
    config = LoopConfig(steps=100, warmup=10, cooldown=0.5)
    scales = [learning_rate_scale(step / 100, step, config) for step in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[10:50] == [1.0] * 40
    assert all(later <= earlier for earlier, later in itertools.pairwise(scales[50:]))
    assert scales[100] == pytest.approx(0.0)


def test_the_average_forgets_its_start_quickly() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = EMA(module, decay=0.999)
    torch.nn.init.ones_(module.weight)
    for step in range(50):
        average.update(module, step)
    assert average.module.weight.item() > 0.98


def test_muon_takes_the_blocks_matrices_alone() -> None:
    module = torch.nn.ModuleDict(
        {"blocks": torch.nn.ModuleList([torch.nn.Linear(4, 4)]), "head": torch.nn.Linear(4, 2)}
    )
    muon, adam = build_optimizers(module, 1e-3, 1e-2, 0.0)
    taken = [p.shape for p in muon.param_groups[0]["params"]]
    assert taken == [module["blocks"][0].weight.shape]
    assert len(adam.param_groups[0]["params"]) == 3
