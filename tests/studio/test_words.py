"""What the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashportrait.studio.history import DONE, Entry
from flashportrait.studio.rates import Rates
from flashportrait.studio.words import chart, duration, notice, report_html, result_html, start_of


def entry(**summary: object) -> Entry:
    told = {
        "frames": 100,
        "rate": "30000/1001",
        "size": [640, 480],
        "seconds": {"total": 20.0, "load": 5.0},
        "warnings": ["no <i>sound</i>"],
        "sound_lost": None,
        "mark": "metadata",
        "missing_faces": [],
        "quality": {"windows": [], "worst": {"identity": 0.6, "color_drift": 1.0, "seam": None}},
    }
    return Entry(Path("20260101-000000-abcd"), "portrait.png", "driver.mp4", {}, state=DONE, summary=told | summary)


def test_strangers_words_are_no_markup() -> None:
    assert "<script>" not in notice("<script>")
    assert "<i>" not in report_html(entry())


def test_the_report_says_what_the_figures_mean() -> None:
    good = report_html(entry())
    assert "the same person throughout (0.60" in good
    assert "A face in every frame" in good
    bad = report_html(
        entry(
            missing_faces=[3, 4],
            quality={"windows": [], "worst": {"identity": 0.2, "color_drift": 9.0, "seam": 3.0}},
        )
    )
    assert "not the same person everywhere" in bad
    assert "they drift" in bad
    assert "a jump (3.0 times" in bad
    assert "No face in 2 of the driver's 100 frames" in bad
    assert "not measured" in report_html(entry(quality={}))


def test_the_chart_has_a_point_a_window_and_a_tick_a_frame_without_a_face() -> None:
    windows = [
        {"first_frame": 0, "identity": 0.5, "color_drift": 0.0, "seam": None},
        {"first_frame": 50, "identity": 1.0, "color_drift": 5.0, "seam": 1.0},
    ]
    drawn = chart({"frames": 100, "rate": "25", "missing_faces": [25], "quality": {"windows": windows}})
    assert 'class="identity" points="0.0,45.0 300.0,0.0 600,0.0"' in drawn
    assert 'class="color_drift" points="0.0,90.0 300.0,45.0 600,45.0"' in drawn
    assert drawn.count("<rect") == 1
    assert 'x="150.0"' in drawn
    assert "0 to 4 s" in drawn
    assert chart({"frames": 100, "rate": "25", "missing_faces": [], "quality": {"windows": windows[:1]}}) == ""


def test_the_driver_starts_where_it_was_cut() -> None:
    cut = Entry(Path("20260101-000000-abcd"), "portrait.png", "driver.mp4", {"trim": "2.5:4"})
    assert 'data-follow="2.5"' in result_html(cut)
    assert [start_of(trim) for trim in (None, ":3", "1:", "x:")] == [0, 0, 1, 0]


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (240, "4 min"), (7800, "2 h 10 min")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_rates_are_of_like_jobs_and_the_nearest_size(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "rates.json")
    assert rates.estimate({}, 100, 500) is None
    for side, total in ((512, 15.0), (1280, 45.0)):
        rates.note({"mouth": 2}, {"frames": 100, "size": [side, 100], "seconds": {"total": total, "load": 5.0}})
    again = Rates(tmp_path / "rates.json")
    assert again.estimate({}, 50, 500) == pytest.approx(5)
    assert again.estimate({}, 50, 9000) == pytest.approx(20)
    assert again.estimate({"size": "512"}, 50, 9000) == pytest.approx(5)
    assert again.estimate({"model": "14b"}, 50, 500) is None
