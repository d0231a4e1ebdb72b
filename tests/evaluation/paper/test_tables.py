"""The paper's tables: rows and claims hang together, windows are judged rightly, nothing is computed twice."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from flashportrait.cli import main
from flashportrait.errors import UserError
from flashportrait.evaluation.paper import making, methods, running
from flashportrait.evaluation.paper.clips import Clip, make_clip
from flashportrait.evaluation.paper.making import PaperTables, judged
from flashportrait.evaluation.paper.output import plot, write_result
from flashportrait.evaluation.paper.running import Runner
from flashportrait.evaluation.paper.tables import NUMBERS, Claim, features_scaled, make_table
from flashportrait.evaluation.paper.windows import motion_frames, passes_to_first_frame, seam
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.denoise import ORDERS, denoiser
from flashportrait.sampling.windows import WindowPlan
from flashportrait.settings import SamplingSettings
from toys import toy_pipeline


@pytest.fixture(scope="module")
def pipeline() -> FlashPortraitPipeline:
    pipeline = toy_pipeline(num_inference_steps=4, window=4, overlap=2, emotion_scale=1.0)
    pipeline.register_to_config(framing={"mode": "whole", "resolution": 64})
    return pipeline


@pytest.fixture(scope="module")
def clip(pipeline: FlashPortraitPipeline) -> Clip:
    return make_clip(pipeline, "talking", 25, 5, 4)


def sampling(**changes: object) -> dict[str, object]:
    given = {"num_inference_steps": 3, "window": 4, "overlap": 2, "text_scale": 1.0, "emotion_scale": 1.0}
    return given | {"batched": False} | changes


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
def test_claims_are_about_rows_that_are_there(number: int, quick: bool):
    tea = methods.Method("TeaCache ~15", "TeaCache")
    table = make_table(number, SamplingSettings(window=8, overlap=3), None, lambda: [tea], quick=quick)
    names = [method.name for method in table.rows]
    assert len(names) == len({*names})
    assert all({claim.better, claim.worse} <= {*names} for claim in table.claims)
    assert table.claims
    assert table.number == number


@torch.no_grad()
def test_motion_frames_of_one_window_are_that_window(pipeline: FlashPortraitPipeline, clip: Clip):
    whole = sampling(window=7, overlap=2)
    clip = make_clip(pipeline, "talking", 25, 5, 7)
    expected = pipeline.sample_latents(noise=clip.noise, **clip.given, **whole)
    assert torch.equal(motion_frames(pipeline, clip, whole), expected)


@torch.no_grad()
def test_motion_frames_go_on_from_what_is_there(pipeline: FlashPortraitPipeline, clip: Clip):
    latents = motion_frames(pipeline, clip, sampling())
    assert latents.shape == clip.noise.shape
    plan = WindowPlan(latents.shape[2], 4, 2)
    first = pipeline.sample_latents(
        noise=clip.noise[:, :, :4],
        **{**clip.given, "motion": clip.given["motion"][:, :13]},
        **sampling(),
    )
    assert torch.equal(latents[:, :, :4], first)  # also the shared ones: the next window repeats them
    plain = pipeline.sample_latents(noise=clip.noise, **clip.given, **sampling(schedule="synchronous"))
    assert len(plan) > 1
    assert not torch.allclose(latents, plain)


def test_a_seam_shows_as_a_jump_that_the_truth_lacks():
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.integers(0, 2, (33, 16, 16, 3)), axis=0).astype(np.uint8)
    plan = WindowPlan(9, 5, 1)
    assert seam(truth, truth, plan) == pytest.approx(1)
    jumping = truth.copy()
    jumping[13:] += 20
    assert seam(jumping, truth, plan) > 3
    assert seam(truth, truth, WindowPlan(9, 9, 0)) is None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_passes_to_the_first_frame_are_those_that_a_run_makes(order: str, overlap: int):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, plan, asked = FlowMatchEulerDiscreteScheduler(shift=3), WindowPlan(13, 4, overlap), []
    scheduler.set_timesteps(5)

    def velocity(latents: torch.Tensor, step: object, window: object) -> torch.Tensor:
        asked.append(window)
        return latents

    run = denoiser(order, velocity, scheduler, plan, lambda first, stop: torch.zeros(1, 1, stop - first, 1, 1))
    next(finished for finished in run.run() if finished)
    expected = passes_to_first_frame(order, plan, 5)
    # The synchronous order's last step is one round of all windows, of which the first needs one.
    assert len(asked) - (len(plan) - 1) * (order == "synchronous") == expected


def test_the_block_gives_the_same_whatever_the_features_scale(pipeline: FlashPortraitPipeline, clip: Clip):
    runner, plain = Runner(pipeline), methods.Method("exact", "", sampling())
    scaled = methods.Method("scaled", "", sampling(), within=lambda network: features_scaled(network, 10.0))
    silent = methods.Method("silent", "", sampling(emotion_scale=0.0))
    expected = runner.run(plain, clip).latents
    torch.testing.assert_close(runner.run(scaled, clip).latents, expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(runner.run(silent, clip).latents, expected, atol=1e-2)
    assert torch.equal(runner.run(plain, clip).latents, expected)


@pytest.mark.parametrize(
    ("better", "worse", "outcome"),
    [
        ([1.0, 1.2, 1.1], [2.0, 2.1, 2.2], "same order"),
        ([2.0, 2.1, 2.2], [1.0, 1.2, 1.1], "other order"),
        ([1.0, 2.0, 3.0], [2.0, 1.0, 3.3], "can't be told"),
        ([1.0], [2.0], "same order"),
        ([1.0], [1.0], "can't be told"),
        ([], [], "can't be told"),
    ],
)
def test_an_order_is_told_where_differences_are_larger_than_their_error(
    better: list[float], worse: list[float], outcome: str
):
    cells = {"a": [{"aed": value} for value in better], "b": [{"aed": value} for value in worse]}
    verdict = judged(Claim("a before b", "a", "b"), "aed", cells)
    assert (verdict.outcome, verdict.clips) == (outcome, len(better))


def test_clips_on_which_a_measure_is_missing_don_t_count():
    cells = {"a": [{"aed": 1.0}, {}], "b": [{"aed": 2.0}, {"aed": 0.0}]}
    assert judged(Claim("", "a", "b"), "aed", cells).clips == 1


def test_tables_are_made_kept_and_written(
    pipeline: FlashPortraitPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(making, "QUICK_CLIPS", {False: (("talking", 9),), True: (("large", 25),)})
    monkeypatch.setattr(running, "FACE_STRIDE", 100)  # noise shows no face, which takes long to find out
    tables = PaperTables(pipeline, tmp_path, quick=True, seed=3)
    told: list[str] = []
    made = {number: tables.make(number, told.append) for number in (3, 7)}
    assert len(told) == sum(len(result.rows) for result in made.values())
    rows = {row["name"]: row for row in made[3].rows}
    assert rows["weighted windows"]["first_frame"] > rows["weighted windows, causal"]["first_frame"]
    assert rows["plain windows"]["calls"] < rows["weighted windows"]["calls"]
    assert all(row["calls"] == pytest.approx(6) for row in made[7].rows)

    def forbidden(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Runner, "run", forbidden)
    again = PaperTables(pipeline, tmp_path, quick=True, seed=3)
    assert [again.make(number).rows for number in (3, 7)] == [result.rows for result in made.values()]
    with pytest.raises(UserError, match="made with other seed: give another folder"):
        PaperTables(pipeline, tmp_path, quick=True, seed=4)

    files = write_result(made[7], tmp_path, again.provenance)
    plot(made[7], tmp_path / "table7.png")
    assert (tmp_path / "table7.png").stat().st_size > 1000
    with files[0].open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["name"] for row in written] == [method.name for method in made[7].table.rows]
    text = files[1].read_text()
    assert "The paper finds: Each of s and w" in text
    assert text.count("| talking 9") == 0
    assert "talking 9" in text


def test_motion_that_drawn_people_lack_is_refused(tmp_path: Path):
    pipeline = toy_pipeline()
    pipeline.register_to_config(motion_layout="pdfgc")
    with pytest.raises(UserError, match="reads motion of pdfgc"):
        PaperTables(pipeline, tmp_path, quick=True, seed=0)


@pytest.mark.parametrize("tables", ["6", "2;3", "", "two"])
def test_unknown_tables_are_refused(tables: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "paper", "--out", str(tmp_path / "out"), "--tables", tables]) == 2
    assert "give some of 2, 3, 4, 5, 7" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
