"""What a worker does with a task, and how a batch knows that it is finished."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from batches import frames_of
from clips import make_clip
from flashportrait import inputs, workdir
from flashportrait.batch import Batch, BatchError, Row, Task, check_jobs, records, storage
from flashportrait.batch.worker import OnceEach, Order, Told, Worker
from flashportrait.face.motion import MotionFeatures
from flashportrait.job import Job


@pytest.fixture
def job(jobs: list[Job]) -> Job:
    """A short one."""
    return replace(jobs[0], steps=2)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "motions", 1, threading.Event())
    with worker.models:
        yield worker


@pytest.fixture
def bucket() -> Iterator[str]:
    """Storage that is not local."""
    system = fsspec.filesystem("memory")
    system.makedirs("/bucket", exist_ok=True)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


@pytest.fixture(autouse=True)
def every_count_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a toy is done."""
    monkeypatch.setattr("flashportrait.batch.worker.TELL_SECONDS", 0.0)


def one(values: dict[str, object]) -> Task:
    (task,) = check_jobs([Row("jobs.csv:2", values)], {}, Path())
    return task


def test_a_task_is_finished_until_something_that_decides_it_changes(job: Job, worker: Worker, tmp_path: Path):
    task = one(job.to_dict())
    assert not records.is_finished(task)
    told: list[Told] = []
    ended = worker.run(Order(task, resume=False), told.append)
    assert ended.status == "done", ended.error
    assert told[-1].fraction == pytest.approx(1, abs=0.3)
    assert records.is_finished(task)

    moved = tmp_path / "moved.png"
    moved.write_bytes(job.portrait.read_bytes())
    same = replace(job, portrait=moved, threads=2)
    assert Batch([one(same.to_dict())]).outcomes[0].status == "done before"
    assert Batch([one(replace(job, restart=True).to_dict())]).outcomes[0].status == "not started"
    assert not records.is_finished(one(replace(job, seed=1).to_dict()))
    moved.write_bytes(job.portrait.read_bytes() + b"changed")
    assert not records.is_finished(one(same.to_dict()))
    job.output.write_bytes(job.output.read_bytes()[:-1])
    assert not records.is_finished(task)
    job.output.unlink()
    assert not records.is_finished(task)


def test_a_task_goes_on_with_what_was_left(job: Job, worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(workdir, "STATE_INTERVAL_SECONDS", 0.0)
    task, stop = one(job.to_dict()), threading.Event()
    first = Worker(tmp_path / "motions", 1, stop)
    ended = first.run(Order(task, resume=False), lambda told: told.fraction > 0.4 and stop.set())
    assert ended.status == "cancelled"
    assert task.is_unfinished
    again = worker.run(Order(task, resume=True), lambda told: None)
    assert again.status == "done", again.error
    assert again.summary["steps_computed"] < job.steps * again.summary["windows"]


def test_files_elsewhere_are_brought_here_and_results_taken_there(
    job: Job, worker: Worker, alone: list[np.ndarray], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    system = fsspec.filesystem("memory")
    for name in ("portrait", "driving"):
        local = getattr(job, name)
        system.put_file(str(local), f"/bucket/{local.name}")
    addresses = {
        "portrait": f"{bucket}/{job.portrait.name}",
        "driving": f"{bucket}/{job.driving.name}",
        "output": f"{bucket}/made/out.mp4",
    }
    task = one({**job.to_dict(), "steps": 15, **addresses})
    assert (task.output, dict(task.remote)) == (addresses["output"], addresses)
    ended = worker.run(Order(task, resume=False), lambda told: None)
    assert ended.status == "done", ended.error
    assert ended.summary["output"] == addresses["output"]
    storage.fetch(addresses["output"], storage.scratch("memory://here/copy.mp4"))
    assert np.array_equal(frames_of(storage.scratch("memory://here/copy.mp4")), alone[0])
    assert Batch([task]).outcomes[0].status == "done before"
    system.pipe_file(f"/bucket/{job.portrait.name}", b"another picture")
    assert not records.is_finished(task)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("memory://bucket/no.png", "there is no file"),
        ("nonsense://b/a.png", "can't be reached (Protocol not known"),
    ],
)
def test_files_elsewhere_that_are_not_there_are_mistakes(job: Job, bucket: str, address: str, words: str):
    with pytest.raises(BatchError) as error:
        one({**job.to_dict(), "portrait": address})
    assert words in str(error.value)


@pytest.mark.usefixtures("no_faces_needed")
def test_the_motion_of_a_driver_is_read_once_for_all_jobs(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: Worker
):
    clip = make_clip(tmp_path / "clip.mp4", 9)
    read, extract = [], inputs.extract_motion

    def counted(*args: object) -> object:
        read.append(1)
        return extract(*args)

    monkeypatch.setattr(inputs, "extract_motion", counted)
    for name in ("a.mp4", "b.mp4"):
        task = one(replace(job, driving=clip, output=tmp_path / name).to_dict())
        assert worker.run(Order(task, resume=False), lambda told: None).status == "done"
    assert len(read) == 1


def test_who_wants_the_same_motion_waits_for_the_one_that_reads_it(job: Job, tmp_path: Path):
    read: list[int] = []

    def extract() -> MotionFeatures:
        read.append(1)
        time.sleep(0.2)
        return MotionFeatures.load(job.driving)

    with ThreadPoolExecutor() as pool:
        caches = [OnceEach(tmp_path / "motions") for _ in range(4)]
        motions = list(pool.map(lambda cache: cache("key", extract), caches))
    assert len(read) == 1
    assert all(np.array_equal(motion.values, motions[0].values) for motion in motions)
