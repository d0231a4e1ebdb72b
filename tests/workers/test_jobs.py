"""Processes that run jobs: what they tell, cancelled, killed, and confined."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batches import frames_of, is_running, rows
from flashportrait.confinement import Confinement
from flashportrait.job import Job, Progress, run
from flashportrait.workers import Ended, WorkerProcess


@pytest.fixture(scope="module")
def source(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of a second or two."""
    folder = tmp_path_factory.mktemp("source")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "portrait.png")
    settings = {"model": str(toy_model), "size": 64, "device": "cpu", "threads": 1, "steps": 30}
    return Job(folder / "portrait.png", rows(folder, 81), folder / "alone.mp4", **settings)


@pytest.fixture(scope="module")
def alone(source: Job) -> np.ndarray:
    """Its frames, run by itself."""
    run(source)
    return frames_of(source.output)


@pytest.fixture
def job(source: Job, tmp_path: Path) -> Job:
    """The same with an output of the test's own."""
    return replace(source, output=tmp_path / "out.mp4")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One for all tests of this module: each has to leave it usable."""
    process = WorkerProcess(motions=tmp_path_factory.mktemp("motions"), threads=1)
    yield process
    process.close()


def news(worker: WorkerProcess) -> Iterator[Progress | Ended]:
    """All that is told until the job has ended."""
    while worker.busy:
        yield from worker.poll(60)


def ended(worker: WorkerProcess) -> Ended:
    """How the job ended."""
    last = list(news(worker))[-1]
    assert isinstance(last, Ended)
    return last


def begin(worker: WorkerProcess, job: Job) -> None:
    """Start a job and wait until there is something to go on from."""
    worker.start(job)
    while not is_running(job):
        assert worker.busy
        worker.poll(0.01)


def test_a_job_is_run_and_told_of(worker: WorkerProcess, job: Job, alone: np.ndarray):
    worker.start(job)
    with pytest.raises(RuntimeError, match="order already"):
        worker.start(job)
    *told, last = news(worker)
    assert {progress.stage for progress in told} >= {"load", "denoise", "decode"}
    assert last == Ended("done", summary=last.summary)
    assert last.summary["frames"] == 81
    assert np.array_equal(frames_of(job.output), alone)
    assert not worker.busy
    assert worker.poll() == []


def test_the_model_is_kept_for_the_next_job(worker: WorkerProcess, job: Job):
    worker.start(job)
    assert ended(worker).status == "done"
    pid = worker.pid
    worker.start(replace(job, output=job.output.with_name("second.mp4")))
    assert ended(worker).summary["seconds"]["load"] < 0.1
    assert worker.pid == pid


def test_what_the_user_can_mend_is_one_line(worker: WorkerProcess, job: Job):
    worker.start(replace(job, portrait=job.output.with_name("gone.png")))
    last = ended(worker)
    assert (last.status, last.internal, last.work) == ("failed", False, None)
    assert "gone.png" in last.error


def test_a_cancelled_job_goes_on_where_it_was(worker: WorkerProcess, job: Job, alone: np.ndarray):
    begin(worker, job)
    pid = worker.pid
    worker.cancel(within=60)
    last = ended(worker)
    assert (last.status, last.error) == ("cancelled", None)
    assert last.work.is_dir()
    worker.start(job, resume=True)
    assert ended(worker).status == "done"
    assert worker.pid == pid
    assert np.array_equal(frames_of(job.output), alone)


def test_a_job_that_does_not_stop_in_time_is_killed(worker: WorkerProcess, job: Job, alone: np.ndarray):
    begin(worker, job)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.cancel(within=0.1)
    last = ended(worker)
    assert last.status == "cancelled"
    assert last.work.is_dir()
    assert worker.pid is None
    worker.start(job, resume=True)
    assert ended(worker).status == "done"
    assert np.array_equal(frames_of(job.output), alone)


def test_a_killed_process_is_told_of_and_replaced(worker: WorkerProcess, job: Job, alone: np.ndarray):
    begin(worker, job)
    os.kill(worker.pid, signal.SIGKILL)
    last = ended(worker)
    assert last.status == "died"
    assert "SIGKILL" in last.error
    worker.start(job, resume=True)
    assert ended(worker).status == "done"
    assert np.array_equal(frames_of(job.output), alone)


def test_a_confined_process_makes_the_same_and_writes_nowhere_else(job: Job, alone: np.ndarray, tmp_path: Path):
    own = tmp_path / "own"
    limits = Confinement(memory=8 << 30, writable=(own, Path(os.environ["FLASHPORTRAIT_CONFIG"])))
    worker = WorkerProcess(threads=1, confinement=limits)
    worker.start(replace(job, output=own / "out.mp4"))
    last = ended(worker)
    assert last.status == "done", last.error
    assert np.array_equal(frames_of(own / "out.mp4"), alone)
    worker.start(job)
    assert ended(worker).status == "failed"
    assert not job.output.exists()
    worker.close()
    assert worker.pid is None
