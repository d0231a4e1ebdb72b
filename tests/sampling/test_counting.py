"""What is told of steps: known answers, from the start and from the middle."""

from __future__ import annotations

from flashportrait.sampling.counting import StepCount


def test_steps_and_passes_are_told_from_where_a_run_goes_on():
    told: list[tuple[str, int, int | None]] = []
    counter = StepCount(lambda *each: told.append(each), windows=3, steps=4, planned=(0, 2))
    counter.begin([2, 1, 1, 0])
    counter.step(computed=False)
    counter.step(computed=True)
    assert told == [
        ("passes", 3, 6),
        ("denoise", 4, 12),
        ("passes", 3, 6),
        ("denoise", 5, 12),
        ("passes", 4, 6),
        ("denoise", 6, 12),
    ]


def test_where_a_tolerance_chooses_nothing_is_promised():
    told: list[tuple[str, int, int | None]] = []
    StepCount(lambda *each: told.append(each), windows=3, steps=4, planned=None).begin([2, 1, 1, 0])
    assert told == [("passes", 0, None), ("denoise", 4, 12)]
