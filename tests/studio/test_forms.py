"""Controls from a job's settings."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs the extra studio")

import gradio as gr

from flashportrait.job import Job
from flashportrait.studio import forms

OFFERED = [*forms.FIRST, *forms.GAINS, *(entry.name for group in forms.folded().values() for entry in group)]


def test_every_setting_has_one_place() -> None:
    places = [*OFFERED, *forms.PICKED, *forms.NOT_OFFERED]
    assert sorted(places) == sorted(Job.settings())


@pytest.mark.parametrize("name", OFFERED)
def test_a_control_at_rest_gives_the_default(name: str) -> None:
    control = forms.control(Job.settings()[name])
    assert forms.given({name: control.value}) == {}
    assert control.value == forms.shown({}, name)


@pytest.mark.parametrize(
    ("name", "shown", "value"),
    [
        ("mouth", 1.3, 1.3),
        ("size", "640", 640),
        ("view", "face", "face"),
        ("speed", "fast", "fast"),
        ("audio", False, False),
        ("seed", "7", 7),
        ("label", "AI", "AI"),
        ("portrait_box", "1,2,3,4", (1, 2, 3, 4)),
        ("refine", "0.5", 0.5),
    ],
)
def test_what_a_control_holds_is_what_the_job_gets_and_shows_again(name: str, shown: Any, value: Any) -> None:
    settings = forms.given({name: shown})
    assert getattr(Job("a.png", "b.mp4", "c.mp4", **settings), name) == value
    assert forms.shown(settings, name) == shown


def test_gains_are_sliders_with_the_jobs_bounds() -> None:
    for name in forms.GAINS:
        control = forms.control(Job.settings()[name])
        assert isinstance(control, gr.Slider)
        assert (control.minimum, control.maximum, control.value) == (0, 5, 1)


@pytest.mark.parametrize(
    ("start", "end", "trim"), [("", "", None), ("1.5", "", "1.5:"), ("", "3", ":3"), (" 1", "2 ", "1:2")]
)
def test_the_part_of_a_clip(start: str, end: str, trim: str | None) -> None:
    assert forms.trim_of(start, end) == trim
    assert forms.span_of(trim) == (start.strip(), end.strip())
