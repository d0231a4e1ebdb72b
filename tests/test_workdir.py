"""Interrupted runs go on, and give the frames of a run that was not interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.sampling.denoise import ORDERS, denoiser
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.windows import WindowPlan
from flashportrait.workdir import WorkDirectory, describe_model, model_digest
from toys import toy_pipeline

PLAN = WindowPlan(26, 8, 3)
NOISE = FrameNoise(seed=0, channels=2, height=2, width=3)
STEPS = 6
PREDICTOR = AdaptiveLatentPrediction(interval=2, order=1)


class Killed(Exception):
    """Stands for the process being killed: nothing gets to run after it."""


def sampler(order, kill_at=None):
    """A denoiser with its prediction state, whose network dies at its ``kill_at``-th call."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(STEPS)
    steps = steps_of(scheduler)
    prediction = PREDICTOR.start([*(step.sigma for step in steps), 0.0])
    calls = 0

    def network(latents, step, window):
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise Killed
        return torch.sin(3 * latents + latents.mean(dim=2, keepdim=True)) + 0.1 * window.index

    def velocity(latents, step, window):
        moved = prediction.step(window.index, step.index, lambda: network(latents, step, window))
        if step.index == STEPS - 1:
            prediction.finish(window.index)
        return moved

    return denoiser(order, velocity, scheduler, PLAN, NOISE), prediction


def collect(work: WorkDirectory, order: str, kill_at: int | None = None) -> torch.Tensor:
    run, prediction = sampler(order, kill_at)
    parts = list(work.run(run, PLAN, prediction))
    assert [window.index for window, _ in parts] == list(range(len(PLAN)))
    return torch.cat([latents for _, latents in parts], dim=2)


def whole(order: str) -> torch.Tensor:
    run, _ = sampler(order)
    return torch.cat([latents for windows in run.run() for _, latents in windows], dim=2)


def make(path, **inputs) -> WorkDirectory:
    work = WorkDirectory.create(path, {"seed": 1}, inputs)
    work.state_interval_seconds = 0
    return work


def reopen(path) -> WorkDirectory:
    work = WorkDirectory.open(path)
    work.state_interval_seconds = 0
    return work


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(ORDERS), st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_killed_anywhere_and_often_it_ends_in_the_same_latents(tmp_path_factory, order, kills):
    path = tmp_path_factory.mktemp("run") / "out.mp4.work"
    work = make(path)
    for kill_at in kills:
        try:
            latents = collect(work, order, kill_at)
        except Killed:
            work = reopen(path)
        else:
            break
    else:
        latents = collect(work, order)
    assert torch.equal(latents, whole(order))


@pytest.mark.parametrize("order", ORDERS)
def test_finished_work_is_not_done_again(tmp_path, order):
    collect(make(tmp_path / "work"), order)
    again = collect(reopen(tmp_path / "work"), order, kill_at=1)
    assert torch.equal(again, whole(order))


def damage(file) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def cut(file) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [damage, cut, lambda file: file.unlink()])
@pytest.mark.parametrize("which", ["newest state", "every state", "first window", "last window"])
@pytest.mark.parametrize("order", ORDERS)
def test_damaged_files_are_seen_and_their_work_is_done_again(tmp_path, order, which, harm, caplog):
    collect(make(tmp_path / "work"), order)
    states, windows = (sorted((tmp_path / "work").glob(f"{kind}-*")) for kind in ("state", "window"))
    assert len(states) == 2
    assert len(windows) == len(PLAN)
    for file in {"newest state": states[-1:], "every state": states}.get(which, []):
        harm(file)
    if "window" in which:
        harm(windows[0 if which == "first window" else -1])
    assert torch.equal(collect(reopen(tmp_path / "work"), order), whole(order))


def test_damaged_states_do_not_crowd_out_new_ones(tmp_path):
    collect(make(tmp_path / "work"), "synchronous")
    for file in (tmp_path / "work").glob("state-*"):
        damage(file)
    with pytest.raises(Killed):
        collect(reopen(tmp_path / "work"), "synchronous", kill_at=2 * len(PLAN))
    states = sorted((tmp_path / "work").glob("state-*"))
    assert [file.name for file in states] == ["state-00000001.safetensors", "state-00000002.safetensors"]
    assert torch.equal(collect(reopen(tmp_path / "work"), "synchronous"), whole("synchronous"))


def test_half_written_files_are_not_taken_for_whole_ones(tmp_path):
    work = make(tmp_path / "work")
    (tmp_path / "work" / "state-99999999.safetensors.part").write_bytes(b"half")
    assert torch.equal(collect(work, "causal"), whole("causal"))


def test_few_files_are_kept(tmp_path):
    work = make(tmp_path / "work")
    collect(work, "synchronous")
    names = sorted(file.name.split("-")[0] for file in work.path.iterdir())
    assert names == ["manifest.json", "state", "state", *["window"] * len(PLAN)]


def test_states_are_saved_no_more_often_than_asked(tmp_path):
    work = make(tmp_path / "work")
    work.state_interval_seconds = 3600
    collect(work, "synchronous")
    assert not list(work.path.glob("state-*"))


def test_the_command_comes_back_as_it_was(tmp_path):
    make(tmp_path / "work")
    assert reopen(tmp_path / "work").command == {"seed": 1}


def test_a_changed_or_missing_input_is_named(tmp_path):
    portrait, driving = tmp_path / "face.png", tmp_path / "drive.mp4"
    portrait.write_bytes(b"face")
    driving.write_bytes(b"drive")
    make(tmp_path / "work", portrait=portrait, driving=driving)
    reopen(tmp_path / "work")
    portrait.write_bytes(b"FACE")
    driving.unlink()
    with pytest.raises(
        UserError, match=r"portrait .*face\.png has changed; the driving .*drive\.mp4 is gone|gone.*changed"
    ):
        WorkDirectory.open(tmp_path / "work")


def test_another_version_is_named(tmp_path):
    make(tmp_path / "work")
    file = tmp_path / "work" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"torch was 1\.0"):
        WorkDirectory.open(tmp_path / "work")


def test_a_changed_setting_is_named(tmp_path):
    make(tmp_path / "work").bind({"window": 5, "sigmas": (1.0, 0.5)})
    work = reopen(tmp_path / "work")
    work.bind({"window": 5, "sigmas": (1.0, 0.5)})
    with pytest.raises(UserError, match="window was 5 and is 6"):
        work.bind({"window": 6, "sigmas": (1.0, 0.5)})


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"format": 0}'])
def test_what_is_no_work_directory_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"work directory|another version"):
        WorkDirectory.open(tmp_path)


def test_a_new_run_takes_the_place_of_an_old_one_but_of_nothing_else(tmp_path):
    collect(make(tmp_path / "work"), "causal")
    assert [file.name for file in make(tmp_path / "work").path.iterdir()] == ["manifest.json"]
    # One that was killed while its first file was written has left a part of that.
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "manifest.json.part").write_text("{")
    assert [file.name for file in make(tmp_path / "killed").path.iterdir()] == ["manifest.json"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-mother.txt").write_text("dear")
    with pytest.raises(UserError, match="in the way"):
        make(tmp_path / "letters")


def test_a_full_disk_is_told_with_the_way_on(tmp_path, monkeypatch):
    work = make(tmp_path / "work")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left.*flashportrait resume"):
        collect(work, "causal")
    monkeypatch.undo()
    assert torch.equal(collect(reopen(tmp_path / "work"), "causal"), whole("causal"))


def test_a_removed_folder_is_gone(tmp_path):
    work = make(tmp_path / "work")
    work.remove()
    assert not work.path.exists()


def test_models_are_told_apart_by_their_weights():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    before = model_digest({"a": model})
    assert model_digest({"a": model}) == before
    with torch.no_grad():
        model.weight.add_(1e-3)
    assert model_digest({"a": model}) != before


def test_a_run_that_is_killed_while_it_removes_its_folder_leaves_a_runs_folder(tmp_path, monkeypatch):
    work = make(tmp_path / "work")
    for name in ("a", "window-0.safetensors", "z"):
        (work.path / name).write_text("")
    unlink = Path.unlink

    def killed(file: Path) -> None:
        if file.name == "window-0.safetensors":
            raise KeyboardInterrupt
        unlink(file)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        work.remove()
    monkeypatch.undo()
    assert WorkDirectory.is_one(work.path)
    assert [file.name for file in make(work.path).path.iterdir()] == ["manifest.json"]


def test_a_scheduler_is_described_alike_in_every_process():
    """diffusers lists what it took by default in the order of a set, which each process orders anew."""
    pipeline = toy_pipeline()
    before = describe_model(pipeline)
    taken = pipeline.scheduler.config["_use_default_values"]
    pipeline.scheduler.register_to_config(_use_default_values=taken[::-1])
    assert len(taken) > 1
    assert describe_model(pipeline) == before
    pipeline.scheduler.register_to_config(shift=7.0)
    assert describe_model(pipeline)["scheduler"] != before["scheduler"]
