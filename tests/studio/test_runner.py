"""The queue, with real processes and a toy model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashportrait.studio.history import CANCELLED, DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Entry, History
from flashportrait.studio.rates import Rates
from flashportrait.studio.runner import Runner, Status
from flashportrait.workers import WorkerProcess

SECONDS = 60.0


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def runner(history: History) -> Iterator[Runner]:
    runner = Runner(history, [WorkerProcess(motions=history.motions, threads=1)], Rates(history.folder / "rates.json"))
    runner.start()
    yield runner
    runner.close()


@pytest.fixture
def entry(history: History, portrait: Path, template: Path, toy_model: Path) -> Callable[..., Entry]:
    def add(**settings: object) -> Entry:
        given = {"model": str(toy_model), "device": "cpu", **settings}
        return history.add(portrait, template, given, {"portrait": "Anna.png", "driver": "x.safetensors"})

    return add


def wait(runner: Runner, entry: Entry, fits: Callable[[Status], bool]) -> Status:
    deadline = time.monotonic() + SECONDS
    while not fits(status := runner.status(entry.id)):
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def test_entries_are_run_one_after_another(
    runner: Runner, history: History, entry: Callable[..., Entry], toy_model: Path
) -> None:
    entries = [entry(seed=number) for number in range(3)]
    broken = entry(model=str(history.folder / "model"))
    shutil.copytree(toy_model, history.folder / "model")
    for each in [*entries, broken]:
        runner.submit(each.id)
    runner.submit(entries[0].id)  # is there already
    shutil.rmtree(history.folder / "model")
    assert runner.status(entries[2].id).state == WAITING
    assert runner.status(entries[2].id).place >= 1
    runner.cancel(entries[1].id)
    assert runner.status(entries[1].id).state == CANCELLED
    assert runner.status(entries[2].id).place == 1
    for each in (entries[0], entries[2]):
        wait(runner, each, lambda status: status.state == DONE)
        assert each.output.is_file()
        assert history.get(each.id).summary["frames"] == 11
    failed = wait(runner, broken, lambda status: status.state == FAILED)
    assert failed.error.startswith("there is no model ")
    assert "\n" not in failed.error
    assert runner.status("20260101-000000-abcd") is None
    assert Rates(history.folder / "rates.json").estimate(entries[0].settings, 110, 64) > 0


def test_what_is_stopped_keeps_its_work(runner: Runner, history: History, entry: Callable[..., Entry]) -> None:
    """How it goes on is seen in the browser."""
    entries = [entry(steps=3000, window=3, overlap=1) for _ in range(2)]
    for each in entries:
        runner.submit(each.id)
    for each, stop in ((entries[0], lambda: runner.cancel(entries[0].id)), (entries[1], runner.close)):
        wait(runner, each, lambda status: status.state == RUNNING and status.stage == "denoise" and status.done > 3)
        stop()
        wait(runner, each, lambda status: status.state not in (RUNNING, WAITING))
        assert (each.folder / "result.mp4.work").is_dir()
        assert history.get(each.id).can_resume
    assert [history.get(each.id).state for each in entries] == [CANCELLED, INTERRUPTED]
