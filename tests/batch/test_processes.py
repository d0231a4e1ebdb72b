"""Worker processes on this machine: killed, stopped, and none the worse."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batches import command, frames_of, is_running, wait_for
from flashportrait.batch import Batch, Outcome, ProcessFleet, Task, check_jobs, read_jobs
from flashportrait.cli import main
from flashportrait.job import Job


@contextmanager
def fleet_of(workers: int, folder: Path) -> Iterator[ProcessFleet]:
    fleet = ProcessFleet(workers, folder / "motions")
    try:
        yield fleet
    finally:
        fleet.close()


def run_and_meanwhile(tasks: Sequence[Task], fleet: ProcessFleet, action: Callable[[], None]) -> list[Outcome]:
    """Run tasks while something is done in another thread, which must come to its end."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    outcomes = Batch(tasks, tries=2).run(fleet)
    thread.join(5)
    assert not thread.is_alive()
    return outcomes


def test_a_killed_worker_is_replaced_and_its_job_goes_on(
    jobs: list[Job], table: Path, alone: list[np.ndarray], tmp_path: Path
):
    tasks = check_jobs(read_jobs(table), {}, tmp_path)
    with fleet_of(2, tmp_path) as fleet:

        def kill() -> None:
            wait_for(lambda: is_running(jobs[2]))
            os.kill(fleet.pids[0], signal.SIGKILL)

        outcomes = run_and_meanwhile(tasks, fleet, kill)
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    # The longest goes first, to worker 0.
    assert [outcome.attempts for outcome in outcomes] == [1, 1, 2]
    for job, frames in zip(jobs, alone, strict=True):
        assert np.array_equal(frames_of(job.output), frames)
    assert not list(tmp_path.glob("*.work"))
    assert {outcome.status for outcome in Batch(tasks).outcomes} == {"done before"}


def test_a_job_that_fails_does_not_stop_others_nor_does_one_over_which_workers_die(
    jobs: list[Job], table: Path, tmp_path: Path
):
    tasks = check_jobs(read_jobs(table), {}, tmp_path)
    tasks[1] = replace(tasks[1], job=replace(tasks[1].job, driving=tmp_path / "gone.mp4"))
    with fleet_of(1, tmp_path) as fleet:

        def kill() -> None:
            for _ in range(2):
                wait_for(lambda: fleet.pids[0] is not None and is_running(jobs[2]))
                pid = fleet.pids[0]
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda killed=pid: fleet.pids[0] != killed)

        done, failed, given_up = run_and_meanwhile(tasks, fleet, kill)
    assert done.status == "done"
    assert (failed.status, failed.attempts) == ("failed", 1)
    assert "gone.mp4" in failed.error
    assert (given_up.status, given_up.attempts) == ("failed", 2)
    assert "killed by SIGKILL" in given_up.error


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_batch_that_is_stopped_goes_on_where_it_was(
    jobs: list[Job],
    table: Path,
    alone: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals,
):
    first, report = command(table, "--quiet"), tmp_path / "report.json"
    wait_for(lambda: jobs[2].output.is_file() and is_running(jobs[1]))
    made = jobs[2].output.stat().st_mtime_ns
    first.send_signal(sent)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[sent], errors
    assert not jobs[1].output.exists()
    assert is_running(jobs[1])
    words = ["batch", str(table), "--quiet", "--report", str(report)]
    assert main(words) == 2
    assert "1 are finished and 1 are interrupted" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    told = json.loads(report.read_text())
    assert [job["status"] for job in told["jobs"]] == ["done", "done", "done before"]
    assert jobs[2].output.stat().st_mtime_ns == made
    for job, frames in zip(jobs, alone, strict=True):
        assert np.array_equal(frames_of(job.output), frames)
