"""The plan for the released model as a run makes, tells and settles it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clips import make_clip
from flashportrait.cli import main
from flashportrait.errors import UserError
from flashportrait.job import Job, ModelCache, check, run
from flashportrait.job.lengths import offers
from flashportrait.job.memory import describe_plan, plan_memory
from flashportrait.job.models import _share_of
from flashportrait.weights import loading
from flashportrait.weights import machine as detection
from flashportrait.weights.hub import WEIGHTS
from flashportrait.weights.loading import released_model
from flashportrait.weights.machine import Machine
from flashportrait.weights.plan import RELEASED, Work, make_plan

GB = 10**9
SMALL, LARGE = (12, 32), (140, 256)


@pytest.fixture
def weights_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the place of the 14B's, and its sizes; nothing reads them."""
    for weight in WEIGHTS.values():
        if weight.name != "face_landmarker":
            (tmp_path / weight.name).write_bytes(b"stands in")
            monkeypatch.setenv(weight.variable, str(tmp_path / weight.name))
    monkeypatch.setattr(loading, "sizes_of", lambda folder: RELEASED)


def machine(vram: float, ram: float) -> Machine:
    return Machine("Test GPU", round(vram * GB), round(ram * GB), flops=100e12)


def planned(on: tuple[float, float], frames: int = 501, **settings: Any):
    job = Job("face.png", "drive.mp4", "out.mp4", **settings)
    return plan_memory(job, released_model(job.model), machine(*on), (832, 480), frames)


@pytest.mark.usefixtures("weights_there")
def test_settings_override():
    plan = planned(LARGE, model="14b", weights="fp8", offload=True, window=21, overlap=5)
    assert (plan.storage, plan.placement, plan.window) == ("fp8", "offload", 21)


@pytest.mark.usefixtures("weights_there")
def test_what_is_predicted_takes_no_time():
    exact, fast = (planned(LARGE, model="14b", speed=speed).seconds for speed in (None, "fast"))
    assert fast < 0.6 * exact
    assert planned(LARGE, model="14b-fast").seconds < 0.2 * exact
    assert planned(LARGE, model="14b", emotion_scale=1).seconds == pytest.approx(0.5 * exact, rel=0.02)


@pytest.mark.usefixtures("weights_there")
def test_the_plan_is_told_and_its_windows_are_settled(
    portrait: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detection, "detect_machine", lambda device: machine(*SMALL))
    used: list[tuple[Job, Any]] = []

    class Loaded(Exception):
        pass

    def using(self: ModelCache, job: Job, plan: Any) -> None:
        used.append((job, plan))
        raise Loaded

    monkeypatch.setattr(ModelCache, "using", using)
    told: list[str | None] = []
    job = Job(portrait, template, tmp_path / "out.mp4", model="14b")
    with pytest.raises(Loaded):
        run(job, on_progress=lambda progress: told.append(progress.message))
    ((settled, plan),) = used
    assert (plan.storage, plan.placement) == ("fp8", "offload")
    assert (settled.window, settled.overlap) == (plan.window, plan.overlap)
    line = next(line for line in told if line and "Test GPU" in line)
    for part in ("GB of device memory", "GB of host memory"):
        assert part in line
    assert "--window" not in line, "a clip of one short window has nothing to gain"


@pytest.mark.usefixtures("weights_there")
def test_what_would_be_quicker_is_said_where_windows_were_not_chosen():
    def said(frames: int = 501, **settings: Any) -> str:
        job = Job("face.png", "drive.mp4", "out.mp4", model="14b", **settings)
        given = job, released_model(job.model), machine(*LARGE), (832, 480), frames
        return describe_plan(plan_memory(*given), *given)

    assert "windows of 51 latent frames, 30 shared" in said()
    assert "--window 21 --overlap 5 would take about 2.2 times less" in said()
    assert "--window" not in said(frames=81)
    assert "--window" not in said(window=51)
    assert "--window" not in said(overlap=30)
    assert "windows of 21 latent frames, 5 shared" in said(window=21, overlap=5)


@pytest.mark.usefixtures("weights_there")
def test_an_overlap_counts_in_the_plan():
    five, thirty = (planned(LARGE, model="14b", overlap=overlap) for overlap in (5, 30))
    assert (five.window, five.overlap, thirty.overlap) == (51, 5, 30)
    assert five.seconds == pytest.approx(0.6 * thirty.seconds, rel=0.02), "three windows rather than five"
    assert planned((9, 32), model="14b", overlap=20).window == 31
    assert planned((7, 32), model="14b", overlap=20).window == 21
    with pytest.raises(UserError, match="overlap is 51 latent frames with windows of 51 or fewer"):
        planned(LARGE, model="14b", overlap=51)


@pytest.mark.parametrize("model", ["14b", "14b-fast"])
def test_absent_weights_are_told_before_memory(
    model: str, portrait: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detection, "detect_machine", lambda device: machine(4, 16))
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path / "cache"))
    jobs = [Job(portrait, driver, tmp_path / "out.mp4", model=model) for driver in (template, portrait)]
    for job in jobs:
        with pytest.raises(UserError, match=r"transformer\.pt.*flashportrait download 14b") as refused:
            run(job)
        assert ("fast_vae.pth" in str(refused.value)) == (model == "14b-fast")
        assert ("pd_fpg.pth" in str(refused.value)) == (job.driving == portrait)
    with pytest.raises(UserError, match="download 14b"):
        check(jobs[0])


@pytest.mark.usefixtures("weights_there")
def test_too_small_a_machine_is_told_before_anything_is_loaded(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detection, "detect_machine", lambda device: machine(4, 16))
    clip = make_clip(tmp_path / "clip.mp4", 3)
    assert main(["animate", str(portrait), str(clip), "-o", str(tmp_path / "out.mp4"), "--model", "14b"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the 14B doesn't fit" in line
    assert not (tmp_path / "out.mp4").exists()


def test_a_cache_measures_the_machine_once(monkeypatch: pytest.MonkeyPatch):
    free = iter([machine(*LARGE), machine(*SMALL)])
    monkeypatch.setattr(detection, "detect_machine", lambda device: next(free))
    with ModelCache() as models:
        assert models.machine("cpu") is models.machine("cpu")
        assert models.machine("cpu").free_vram == LARGE[0] * GB
    with pytest.raises(UserError, match="toaster"):
        ModelCache().machine("toaster")


@pytest.mark.usefixtures("weights_there")
@pytest.mark.parametrize(("offload", "placement"), [(None, "shard"), (False, "shard"), (True, "offload")])
def test_several_processes_share_weights_out(offload: bool | None, placement: str):
    cards = replace(machine(24, 64), processes=4)
    job = Job("face.png", "drive.mp4", "out.mp4", model="14b", offload=offload)
    given = job, released_model("14b"), cards, (832, 480), 501
    plan = plan_memory(*given)
    assert (plan.placement, plan.window) == (placement, 51)
    assert ("shared out among 4 processes" in describe_plan(plan, *given)) == (placement == "shard")


def test_processes_of_one_machine_have_a_part_of_its_host_memory():
    ranks = SimpleNamespace(size=8, local_size=4)
    card, cpu = (_share_of(replace(machine(24, 64), unified=unified), ranks) for unified in (False, True))
    assert (card.free_vram, card.free_ram, card.processes) == (24 * GB, 16 * GB, 8)
    assert (cpu.free_vram, cpu.free_ram, cpu.processes) == (16 * GB, 16 * GB, 8)


def test_offers_cost_what_was_measured_on_an_h100():
    """Seconds of a pass, uncompiled, with the one over 21 latent frames given."""
    work = Work(480, 832, 126)
    made = make_plan(machine(*LARGE), work)
    found = {offer.window: 3.27 * offer.pass_ratio for offer in offers(machine(*LARGE), work, made, 21)}
    for window, seconds in {13: 1.79, 21: 3.27, 31: 5.73, 51: 12.37}.items():
        assert found[window] == pytest.approx(seconds, rel=0.04)
    small = machine(9, 32)
    fitting = {offer.window: offer.peak_vram for offer in offers(small, work, make_plan(small, work), 21)}
    assert fitting[51] is None
    assert fitting[21] <= 0.95 * 9e9
