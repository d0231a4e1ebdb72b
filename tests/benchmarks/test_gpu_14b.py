"""The GPU script: its stages at toy size, going on where it stopped, and the arithmetic of what it sums up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import gpu_14b


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["gpu_14b.py", "--out", str(out), "--toy", *options])
    gpu_14b.main()
    return json.loads((out / "all.json").read_text())["stages"]


def test_stages_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    only = ("--only", "^(pass|attention|decoding|prediction|windows)$")
    made = run(monkeypatch, tmp_path, *only)
    assert made.keys() == {"pass", "attention", "decoding", "prediction", "windows"}
    assert not any("error" in result for result in made.values())
    assert "| prediction |" in capsys.readouterr().out
    monkeypatch.setattr(gpu_14b, "STAGES", {name: (None, limit) for name, (_, limit) in gpu_14b.STAGES.items()})
    assert run(monkeypatch, tmp_path, *only) == made, "what is done is not run again"


def test_without_time_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = run(monkeypatch, tmp_path, "--minutes", "0")
    assert {result["error"] for result in made.values()} == {"no time left"}


def test_a_clip_is_summed_from_measured_parts():
    results = {
        "pass": {"seconds": 4.0},
        "pass compiled": {"seconds": 3.0},
        "windows": {"21": 4.0, "51": 16.0},
        "decoding": {"wan_seconds_a_frame": 0.1, "tiny_seconds_a_frame": 0.01},
    }
    totals = gpu_14b.summed(results)
    # Eight windows of 21 that share 5, five of 51 that share 30; compiled passes take three quarters.
    assert totals["windows of 21 sharing 5, 5 calls of 30 steps: 80 passes"] == pytest.approx(80 * 3 + 50.1)
    assert totals["windows of 51 sharing 30, 30 calls of 30 steps: 300 passes"] == pytest.approx(300 * 12 + 50.1)
    assert totals["windows of 21 sharing 5, 4-step schedule, tiny autoencoder"] == pytest.approx(64 * 3 + 5.01)
    assert gpu_14b.summed({}) == {}
