"""The plan for the released model as the command line makes, tells and settles it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clips import make_clip
from flashportrait.cli import build_parser, main
from flashportrait.cli.console import Console
from flashportrait.cli.memory import plan_memory
from flashportrait.weights import plan as planning
from flashportrait.weights.plan import Machine

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets the machine that is detected."""

    def detect(vram: float, ram: float) -> None:
        found = Machine("Test GPU", round(vram * GB), round(ram * GB), flops=100e12)
        monkeypatch.setattr(planning, "detect_machine", lambda device: found)

    return detect


def parse(*options: str):
    parser = build_parser("animate")
    return parser.parse_args(["animate", "face.png", "drive.mp4", "-o", "out.mp4", *options])


def planned(*options: str, frames: int = 501):
    args = parse(*options)
    return plan_memory(args, Console(), (832, 480), frames), args


def test_small_models_are_not_planned():
    assert planned("--model", "nano")[0] is None


def test_the_plan_is_told_and_its_windows_are_settled(machine, capsys: pytest.CaptureFixture[str]):
    machine(12, 32)
    plan, args = planned("--model", "14b", "--size", "832")
    assert (plan.storage, plan.placement) == ("fp8", "offload")
    assert (args.window, args.overlap) == (plan.window, plan.overlap) == (41, 24)
    told = capsys.readouterr().err
    for part in ("Test GPU", "GB of device memory", "GB of host memory", " h"):
        assert part in told


def test_options_override(machine):
    machine(140, 256)
    plan, args = planned("--model", "14b", "--weights", "fp8", "--offload", "--window", "21", "--overlap", "5")
    assert (plan.storage, plan.placement, plan.window) == ("fp8", "offload", 21)
    assert (args.window, args.overlap) == (21, 5)


def test_what_is_predicted_takes_no_time(machine):
    machine(140, 256)
    seconds = {options: planned("--model", "14b", *options)[0].seconds for options in ((), ("--speed", "fast"))}
    assert seconds[("--speed", "fast")] < 0.6 * seconds[()]
    assert planned("--model", "14b-fast")[0].seconds < 0.2 * seconds[()]
    guided = planned("--model", "14b", "--emotion-scale", "1")[0]
    assert guided.seconds == pytest.approx(0.5 * seconds[()], rel=0.02)


def test_too_small_a_machine_is_told_before_anything_is_loaded(
    machine, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    machine(4, 16)
    clip = make_clip(tmp_path / "clip.mp4", 3)
    assert main(["animate", str(portrait), str(clip), "-o", str(tmp_path / "out.mp4"), "--model", "14b"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the 14B doesn't fit" in line
    assert not (tmp_path / "out.mp4").exists()
