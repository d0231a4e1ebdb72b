"""Running jobs: what is told on the way, stopping and going on, and one cache for many runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from clips import make_clip
from flashportrait import workdir
from flashportrait.errors import UserError
from flashportrait.job import Cancelled, InUse, Job, ModelCache, MotionCache, Progress, motion_key, resume, run
from flashportrait.media.reader import VideoReader


@pytest.fixture
def job(toy_model: Path, portrait: Path, template: Path, tmp_path: Path) -> Job:
    """Three windows, one after the other."""
    return Job(
        portrait, template, tmp_path / "out.mp4", model=str(toy_model), window=2, overlap=1, schedule="causal",
        device="cpu", threads=1,
    )  # fmt: skip


def cancel_at(stage: str, done: int) -> tuple[threading.Event, Callable[[Progress], None]]:
    """A flag, and a listener that sets it when ``done`` units of a stage are done."""
    flag = threading.Event()

    def listen(progress: Progress) -> None:
        if (progress.stage, progress.done) == (stage, done):
            flag.set()

    return flag, listen


@pytest.mark.usefixtures("no_faces_needed")
def test_progress_is_complete_and_never_goes_back(job: Job, tmp_path: Path):
    clip = make_clip(tmp_path / "clip.mp4", 30)
    told: list[Progress] = []
    summary = run(replace(job, driving=clip), on_progress=told.append)
    counted = [progress for progress in told if progress.message is None]
    stages = {progress.stage: progress for progress in counted}
    assert list(stages) == ["load", "portrait", "motion", "conditions", "denoise", "decode"]
    assert all(progress.done == progress.total for progress in stages.values())
    assert (stages["motion"].total, stages["denoise"].total, stages["decode"].total) == (30, 16, 30)
    assert {progress.unit for progress in counted} == {"stage", "frames", "steps"}
    for before, after in pairwise(told):
        assert after.seconds >= before.seconds
    for stage in stages:
        done = [progress.done for progress in counted if progress.stage == stage]
        assert done == sorted(done)
    assert stages["motion"].seconds_left == 0
    assert any(progress.part is not None and progress.part.suffix == ".mp4" for progress in counted)
    assert stages.keys() - {"decode", "quality"} <= summary.seconds.keys()
    assert summary.frames == 30
    assert summary.to_dict()["output"] == str(tmp_path / "out.mp4")


@pytest.mark.parametrize(("stage", "done"), [("load", 0), ("conditions", 1), ("denoise", 3), ("decode", 7)])
def test_cancelled_and_resumed_gives_the_same_frames(
    job: Job, written: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, stage: str, done: int
):
    monkeypatch.setattr(workdir, "STATE_INTERVAL_SECONDS", 0.0)
    run(job)
    whole = written[:]
    job.output.unlink()
    flag, listen = cancel_at(stage, done)
    with pytest.raises(Cancelled) as cancelled:
        run(job, on_progress=listen, cancel=flag)
    assert not job.output.exists()
    written.clear()
    told: list[Progress] = []
    resume(cancelled.value.work, on_progress=told.append)
    assert np.array_equal(written, whole)
    assert not cancelled.value.work.exists()
    assert {progress.stage: progress.done for progress in told}["denoise"] == 6


@pytest.mark.parametrize("schedule", ["causal", "diagonal"])
def test_what_was_done_before_counts(job: Job, written: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, schedule):
    monkeypatch.setattr(workdir, "STATE_INTERVAL_SECONDS", 0.0)
    flag, listen = cancel_at("denoise", 5)
    with pytest.raises(Cancelled) as cancelled:
        run(replace(job, schedule=schedule), on_progress=listen, cancel=flag)
    told: list[Progress] = []
    summary = resume(cancelled.value.work, on_progress=told.append)
    steps = [progress.done for progress in told if progress.stage == "denoise" and progress.message is None]
    assert steps[0] >= 3
    assert steps == list(range(steps[0], 7))
    assert summary.report.steps_computed == 6 - steps[0]
    assert told[-1].seconds_left == 0


@pytest.mark.usefixtures("no_faces_needed")
def test_motion_is_cancelled_between_frames(job: Job, tmp_path: Path):
    flag, listen = cancel_at("motion", 3)
    told: list[Progress] = []
    with pytest.raises(Cancelled):
        run(
            replace(job, driving=make_clip(tmp_path / "clip.mp4", 11)),
            on_progress=lambda progress: (listen(progress), told.append(progress)),
            cancel=flag,
        )
    assert told[-1].done == 3


def test_the_same_job_again_goes_on_where_asked(job: Job, written: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workdir, "STATE_INTERVAL_SECONDS", 0.0)
    flag, listen = cancel_at("decode", 7)
    with pytest.raises(Cancelled):
        run(job, on_progress=listen, cancel=flag)
    with pytest.raises(UserError, match="unfinished run with another seed"):
        run(replace(job, seed=5), resume=True)
    with pytest.raises(UserError, match="holds an unfinished run"):
        run(job)
    written.clear()
    summary = run(job, resume=True)
    assert len(written) == 11
    assert summary.report.steps_computed < 6
    assert run(job, resume=True).report.steps_computed == 6


def test_runs_through_one_cache_are_those_of_each_alone(job: Job, written: list[np.ndarray]):
    jobs = [
        job,
        replace(job, steps=6, window=3, seed=7, predictor="newton:interval=2,order=1"),
        replace(job, schedule="synchronous", window=None, overlap=None, threads=2, size=48),
        job,
    ]

    def frames(job: Job, models: ModelCache | None) -> np.ndarray:
        written.clear()
        run(job, models=models)
        return np.stack(written)

    alone = [frames(job, None) for job in jobs]
    with ModelCache() as models:
        assert all(np.array_equal(frames(job, models), expected) for job, expected in zip(jobs, alone, strict=True))
        assert len(models) == 1
    assert len(models) == 0


def test_a_run_that_was_stopped_leaves_a_cached_model_as_it_was(job: Job, written: list[np.ndarray]):
    run(job)
    alone = np.stack(written)
    with ModelCache() as models:
        for stage, done in (("denoise", 1), ("decode", 3)):
            flag, listen = cancel_at(stage, done)
            output = job.output.with_name(f"{stage}.mp4")
            other = replace(job, output=output, predictor="alp:interval=2", steps=6)
            with pytest.raises(Cancelled):
                run(other, models=models, on_progress=listen, cancel=flag)
        written.clear()
        run(job, models=models)
    assert np.array_equal(written, alone)


def test_a_cache_tells_models_apart_and_holds_few(job: Job):
    with ModelCache() as models:
        with models.using(job) as first, models.using(replace(job, seed=1, steps=3)) as same:
            assert same is first
        with models.using(replace(job, dtype="bfloat16")) as other:
            assert other is not first
        assert len(models) == 1


@pytest.mark.usefixtures("no_faces_needed")
def test_the_motion_of_a_driver_is_read_once(job: Job, tmp_path: Path, written: list[np.ndarray]):
    clip = replace(job, driving=make_clip(tmp_path / "clip.mp4", 11))
    run(clip)
    alone = written[:]
    motions, told = MotionCache(tmp_path / "motions"), []
    for _ in range(2):
        written.clear()
        told.clear()
        run(clip, motion_for=motions, on_progress=told.append)
        assert np.array_equal(written, alone)
    assert len(list(motions.folder.iterdir())) == 1
    assert [progress.done for progress in told if progress.stage == "motion"] == [11]


def test_motion_is_shared_by_content_and_choice(job: Job, tmp_path: Path):
    clip = replace(job, driving=make_clip(tmp_path / "clip.mp4", 5))
    copy = replace(clip, driving=tmp_path / "copy.mp4", head=0, seed=9)
    copy.driving.write_bytes(clip.driving.read_bytes())
    key = motion_key(clip, "blendshapes")
    assert motion_key(copy, "blendshapes") == key
    others = [
        replace(clip, trim="1f:"),
        replace(clip, fps=30),
        replace(clip, face=2),
        replace(clip, face_box=(0, 0, 9, 9)),
    ]
    assert len({key, motion_key(clip, "pdfgc"), *(motion_key(other, "blendshapes") for other in others)}) == 6


def test_threads_are_as_before_afterwards(job: Job):
    import torch

    before = torch.get_num_threads()
    run(replace(job, threads=before + 1))
    assert torch.get_num_threads() == before


@pytest.fixture
def other_process(job: Job) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of the same job: it has said so, and waits until told to go on."""
    code = (
        "import json, sys\n"
        "from flashportrait.job import Job, run\n"
        "def wait(progress):\n"
        "    if (progress.stage, progress.done) == ('denoise', 1):\n"
        "        print('waiting', flush=True)\n"
        "        sys.stdin.readline()\n"
        "print(run(Job.from_dict(json.loads(sys.argv[1])), on_progress=wait).frames)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, json.dumps(job.to_dict())], **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        yield process
        process.kill()


def test_a_second_run_to_an_output_is_refused_and_the_first_unharmed(
    job: Job, other_process: subprocess.Popen[str], tmp_path: Path
):
    work = tmp_path / "out.mp4.work"
    for attempt in (
        lambda: run(job),
        lambda: run(replace(job, restart=True)),
        lambda: run(job, resume=True),
        lambda: resume(work),
    ):
        with pytest.raises(InUse, match="another run is writing to"):
            attempt()
    run(replace(job, output=tmp_path / "other.mp4"))
    told, _ = other_process.communicate("go on\n", timeout=60)
    assert (told, other_process.returncode) == ("11\n", 0)
    assert VideoReader(job.output).info.frames == 11
    assert not work.exists()


def test_the_lock_of_a_dead_process_is_none(job: Job, other_process: subprocess.Popen[str]):
    other_process.kill()
    other_process.wait(timeout=60)
    assert run(job, resume=True).frames == 11


def test_what_is_in_the_way_stays(job: Job, tmp_path: Path):
    (tmp_path / "out.mp4.work").mkdir()
    letter = tmp_path / "out.mp4.work" / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(UserError, match="in the way"):
        run(job)
    assert [*letter.parent.iterdir()] == [letter]
    letter.unlink()
    letter.parent.rmdir()
    letter.parent.write_text("a file")
    with pytest.raises(UserError, match="in the way"):
        run(job)
    assert letter.parent.read_text() == "a file"
