"""A real Ray cluster of two nodes on this machine: a worker, a node, the driving program are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batches import command, frames_of, is_running, wait_for
from flashportrait.batch import Batch, Progress, Row, check_jobs, read_jobs
from flashportrait.batch.cluster import RayFleet
from flashportrait.cli import main
from flashportrait.job import Job, run
from flashportrait.workers.cluster import actor_options

ray = pytest.importorskip("ray", reason="needs the extra ray")


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([{"CPU": 16}, {"CPU": 8}, {}], None, {"num_cpus": 8}),
        ([{"CPU": 16}, {"CPU": 8}], 3, {"num_cpus": 8}),
        ([{"CPU": 16}, {"CPU": 8}], 5, {"num_cpus": 4}),
        ([{"CPU": 2}], 9, {"num_cpus": 1}),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8, "GPU": 2}, {"CPU": 64}], None, {"num_cpus": 4, "num_gpus": 1}),
        ([{"CPU": 2, "GPU": 4}], 2, {"num_cpus": 1, "num_gpus": 1}),
        ([], None, {"num_cpus": 1}),
    ],
)
def test_an_actor_takes_a_gpu_or_as_many_cpus_as_leave_room_for_the_others(
    nodes: list[dict[str, float]], workers: int | None, expected: dict[str, float]
):
    assert actor_options(nodes, workers) == expected


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_the_driving_program_is_killed_and_another_completes_the_rest(
    cluster: Any, jobs: list[Job], table: Path, alone: list[np.ndarray], tmp_path: Path
):
    report = tmp_path / "report.json"
    first = command(table, "--quiet", "--ray", cluster.address, "-j", 1)
    wait_for(lambda: jobs[2].output.is_file() and is_running(jobs[1]))
    made = jobs[2].output.stat().st_mtime_ns
    first.kill()
    first.communicate()
    words = [str(table), "--quiet", "--ray", cluster.address, "-j", "1", "--resume", "--report", str(report)]
    assert main(["batch", *words]) == 0
    told = json.loads(report.read_text())
    assert [job["status"] for job in told["jobs"]] == ["done", "done", "done before"]
    assert jobs[2].output.stat().st_mtime_ns == made
    for job, frames in zip(jobs, alone, strict=True):
        assert np.array_equal(frames_of(job.output), frames)


@pytest.fixture(scope="module")
def fleet(cluster: Any) -> Iterator[RayFleet]:
    """A worker on each node, which leaves no room for others."""
    fleet = RayFleet(cluster.address, 2)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("schedule", ["causal", "diagonal"])
def test_one_job_is_shared_between_two_workers_and_gives_the_same_frames(
    fleet: RayFleet, jobs: list[Job], tmp_path: Path, schedule: str
):
    job = replace(jobs[2], schedule=schedule, steps=20)
    run(job)
    expected = frames_of(job.output)
    job.output.unlink()
    # Both have the model loaded, or the job might be done before there is help.
    ray.get([actor.evaluate.remote(job, None, {}) for actor in fleet._actors])
    wait_for(lambda: fleet.events(0.1) or len(fleet.free()) == 2)
    (outcome,) = Batch(check_jobs([Row("one", job.to_dict())], {}, tmp_path)).run(fleet)
    assert outcome.status == "done", outcome.error
    assert 0 < outcome.summary["helped_calls"] < outcome.summary["network_calls"]
    assert np.array_equal(frames_of(job.output), expected)


def test_a_dead_worker_and_a_dead_node_cost_nothing_but_time(
    cluster: Any, fleet: RayFleet, jobs: list[Job], table: Path, alone: list[np.ndarray], tmp_path: Path
):
    told: list[Progress] = []
    batch = Batch(check_jobs(read_jobs(table), {}, tmp_path), on_progress=told.append)

    def kill() -> None:
        wait_for(lambda: is_running(jobs[2]) and is_running(jobs[1]))
        os.kill(fleet.pids[0], signal.SIGKILL)
        wait_for(lambda: any(news.message for news in told))
        cluster.remove_node(next(iter(cluster.worker_nodes)))

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    outcomes = batch.run(fleet)
    thread.join(5)
    assert not thread.is_alive()
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    assert max(outcome.attempts for outcome in outcomes) > 1
    for job, frames in zip(jobs, alone, strict=True):
        assert np.array_equal(frames_of(job.output), frames)
    assert not list(tmp_path.glob("*.work"))
