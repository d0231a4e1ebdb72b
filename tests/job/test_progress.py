"""The time that is left of a run, by a clock that the test winds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashportrait.job import Progress
from flashportrait.job.progress import Teller
from flashportrait.workers import WholeRun

COMPUTED, PREDICTED, FRAME = 4.0, 0.5, 0.25
"""Seconds of a step or frame."""


class Run:
    """A run whose steps and frames take known times, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Progress] = []
        self.teller = Teller(self.told.append, None, clock=lambda: self.now)
        self.passes = self.steps = self.frames = 0

    def begin(self, steps: int, planned: int | None, *, steps_before: int = 0, passes_before: int = 0) -> None:
        """Some of them taken by another run."""
        self.total, self.planned = steps, planned
        self.steps, self.passes = steps_before, passes_before
        self._tell_steps()

    def step(self, seconds: float, *, computed: bool) -> float | None:
        """Take one, and say what is left."""
        self.now += seconds
        self.steps, self.passes = self.steps + 1, self.passes + computed
        return self._tell_steps()

    def write(self, frames: int, of: int, seconds: float = FRAME) -> float | None:
        """Four frames come at once, as from one latent frame."""
        for _ in range(frames):
            self.now += 4 * seconds if self.frames % 4 == 0 else 0
            self.frames += 1
            self.teller("decode", self.frames, of)
        return self.told[-1].seconds_left

    def _tell_steps(self) -> float | None:
        self.teller("passes", self.passes, self.planned)
        self.teller("denoise", self.steps, self.total)
        return self.told[-1].seconds_left


@pytest.fixture
def run() -> Run:
    return Run()


def windows(count: int) -> Iterator[bool]:
    """Steps of windows one after another: two computed out of five."""
    for _ in range(count):
        yield from (True, False, False, True, False)


def test_what_is_left_is_counted_in_computed_and_predicted_steps_and_frames(run: Run) -> None:
    run.begin(steps=20, planned=8)
    assert run.told[-1].seconds_left is None
    left = [run.step(COMPUTED if computed else PREDICTED, computed=computed) for computed in windows(1)]
    assert left[:3] == [None, None, None], "the first pass is no measure"
    assert left[4] == pytest.approx(6 * COMPUTED + 9 * PREDICTED)
    assert run.write(20, of=80) == pytest.approx(6 * COMPUTED + 9 * PREDICTED + 60 * FRAME)
    assert run.step(COMPUTED, computed=True) == pytest.approx(5 * COMPUTED + 9 * PREDICTED + 60 * FRAME)
    for computed in list(windows(3))[1:]:
        last = run.step(COMPUTED if computed else PREDICTED, computed=computed)
    assert last == pytest.approx(60 * FRAME)
    assert run.write(60, of=80) == 0
    assert {progress.unit for progress in run.told} == {"steps", "frames"}


def test_a_first_pass_that_compiles_counts_for_nothing(run: Run) -> None:
    run.begin(steps=10, planned=10)
    assert run.step(90.0, computed=True) is None
    assert run.step(COMPUTED, computed=True) == pytest.approx(8 * COMPUTED)
    assert run.step(COMPUTED, computed=True) == pytest.approx(7 * COMPUTED)


def test_a_run_that_goes_on_has_less_left(run: Run) -> None:
    run.begin(steps=20, planned=8, steps_before=11, passes_before=5)
    assert run.told[-1].done == 11
    run.step(30.0, computed=False)
    run.step(30.0, computed=False)
    run.step(30.0, computed=True)
    assert run.step(1.0, computed=False) is None, "no pass of this run but the first"
    assert run.step(COMPUTED, computed=True) == pytest.approx(COMPUTED + 3 * (30 + 30 + 1) / 3)


def test_sampling_done_before_leaves_the_frames(run: Run) -> None:
    run.begin(steps=20, planned=8, steps_before=20, passes_before=8)
    assert run.write(4, of=24) is None, "too few frames to judge by"
    assert run.write(4, of=24) == pytest.approx(16 * FRAME)


def test_where_a_tolerance_chooses_their_share_so_far_counts(run: Run) -> None:
    run.begin(steps=30, planned=None)
    left = [run.step(COMPUTED if computed else 0.0, computed=computed) for computed in windows(2)]
    assert left[-1] == pytest.approx(8 * COMPUTED), "two of five so far"


def test_newer_steps_count_once_there_are_many(run: Run) -> None:
    run.begin(steps=400, planned=400)
    for seconds in [1.0] * 101 + [3.0] * 100:
        left = run.step(seconds, computed=True)
    assert left == pytest.approx(199 * 3.0)


def test_the_mesh_alone_is_judged_by_frames(run: Run) -> None:
    assert run.write(40, of=100) == pytest.approx(60 * FRAME)


def test_other_stages_tell_of_themselves_only(run: Run) -> None:
    for done in range(4):
        run.teller("motion", done, 10)
        run.now += 2.0
    assert (run.told[-1].seconds_left, run.told[-1].of_whole_run) == (14.0, False)


def test_the_whole_run_takes_it_over(run: Run) -> None:
    whole = WholeRun()
    run.begin(steps=10, planned=10)
    run.teller("motion", 5, 10)
    for progress in run.told:
        whole(progress)
    assert whole.seconds_left is None
    run.told.clear()
    for _ in range(3):
        run.step(COMPUTED, computed=True)
    for progress in run.told:
        whole(progress)
    assert whole.seconds_left == pytest.approx(7 * COMPUTED)
