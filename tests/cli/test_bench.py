"""What a machine does, as a table and as JSON: every stage is there, and clips are summed from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashportrait.cli import main
from flashportrait.evaluation.machine import Stage, whole_run
from flashportrait.settings import SamplingSettings


def test_all_stages_as_json_and_as_a_table(toy_model: Path, capsys: pytest.CaptureFixture[str]):
    command = ["bench", "--model", str(toy_model), "--width", "32", "--height", "32", "--repeats", "1"]
    assert main([*command, "--seconds", "1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    stages = {stage["name"]: stage for stage in made["stages"]}
    assert stages.keys() == {"portrait encoding", "pass of the network", "prediction", "decoding"}
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert "20 tokens" in stages["pass of the network"]["note"]
    assert made["clip_frames"] == 25
    assert made["clip_seconds"].keys() == {"exact"}, "two steps can't be predicted"
    assert main([*command, "--window", "3"]) == 0
    table = capsys.readouterr().out
    assert "pass of the network" in table
    assert "windows of 3 latent frames" in table
    assert "12 tokens" in table
    assert str(toy_model.parent) not in table, "paths are nobody's business"


def test_a_clip_is_summed_from_its_stages():
    stages = [
        Stage("portrait encoding", 3.0, "clip"),
        Stage("pass of the network", 2.0, "pass"),
        Stage("prediction", 0.01, "step"),
        Stage("decoding", 0.1, "frame"),
    ]
    seconds = whole_run(stages, 501, SamplingSettings())  # 126 latent frames: five windows of 51 that share 30
    assert seconds["exact"] == pytest.approx(3 + 50.1 + 5 * 30 * 2 * 2)
    assert seconds["fast"] == pytest.approx(3 + 50.1 + 5 * (5 * 2 * 2 + 25 * 0.01))


def test_wrong_input(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--repeats", "0"]) == 2
    assert "--repeats is 0: give 1 or more" in capsys.readouterr().err
