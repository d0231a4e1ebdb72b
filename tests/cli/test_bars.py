"""What a run's progress bars say of the time left."""

from __future__ import annotations

from flashportrait.cli.console import Console, clock
from flashportrait.cli.progress import ProgressBars
from flashportrait.job import Progress


def test_one_bar_tells_what_is_left_of_the_whole_run():
    with ProgressBars(Console()) as bars:
        bars(Progress("motion", 1, 2, "frames", 1.0, 1.0))
        assert "left" not in str(bars._bars["motion"])
        for stage, done, total, left in (("denoise", 3, 4, 4000.0), ("decode", 1, 9, 75.0)):
            bars(Progress(stage, done, total, "steps", 5.0, left))
        sampling, writing = (bars._bars[stage] for stage in ("denoise", "decode"))
        assert "3/4" in str(sampling)
        assert "about 1:15 left" in str(sampling)
        assert "left" not in str(writing)
        bars(Progress("denoise", 4, 4, "steps", 6.0, 20.0))
        bars(Progress("decode", 2, 9, "frames", 7.0, 14.0))
        assert "left" not in str(sampling)
        assert "about 0:14 left" in str(writing)


def test_a_clock_has_hours_where_there_are_some():
    assert [clock(seconds) for seconds in (7.4, 725, 7261)] == ["0:07", "12:05", "2:01:01"]
