"""Rates, spans and grids as exact rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.media.timing import Trim, constant_rate, parse_rate

RATES = [
    Fraction(24000, 1001),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(60000, 1001),
    Fraction(15, 2),
]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", Fraction(25)),
        (24.0, Fraction(24)),
        ("12.5", Fraction(25, 2)),
        ("29.97", Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (Fraction(15), Fraction(15)),
        # A hair from an NTSC rate, and meant.
        ("1070/51", Fraction(1070, 51)),
        (Fraction(1070, 51), Fraction(1070, 51)),
        (Fraction(1049, 50), Fraction(1049, 50)),
    ],
)
def test_rates(text: object, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "start", "end", "in_frames"),
    [
        ("2.5:7", Fraction(5, 2), Fraction(7), False),
        (":7", Fraction(0), Fraction(7), False),
        ("3:", Fraction(3), None, False),
        ("60f:180f", Fraction(60), Fraction(180), True),
        ("1:30-2:45.5", Fraction(90), Fraction(331, 2), False),
        ("1:00:00-", Fraction(3600), None, False),
    ],
)
def test_trims(text: str, start: Fraction, end: Fraction | None, in_frames: bool) -> None:
    assert Trim.parse(text) == Trim(start, end, in_frames)


@settings(max_examples=50)
@given(rate=st.sampled_from(RATES), count=st.integers(1, 500), first=st.integers(0, 499), length=st.integers(1, 500))
def test_a_trim_holds_the_frames_that_appear_within_it(rate: Fraction, count: int, first: int, length: int) -> None:
    trim = Trim(first / rate, (first + length) / rate)
    if first >= count:
        with pytest.raises(UserError, match="no frame"):
            trim.frames(count, rate)
    else:
        assert trim.frames(count, rate) == (first, min(count, first + length))
        assert Trim(Fraction(first), Fraction(first + length), in_frames=True).frames(count, rate) == trim.frames(
            count, rate
        )


@settings(max_examples=60)
@given(
    rate=st.sampled_from(RATES),
    ticks_per_second=st.sampled_from([1000, 12800, 15360, 30000, 90000]),
    count=st.integers(20, 3000),
    start=st.integers(-5000, 5000),
)
def test_an_even_rate_is_found_through_the_rounding_of_any_clock(
    rate: Fraction, ticks_per_second: int, count: int, start: int
) -> None:
    ticks = np.array([start + round(index / rate * ticks_per_second) for index in range(count)])
    found = constant_rate(ticks, Fraction(1, ticks_per_second), [rate, None])
    assert found == rate


def test_one_late_frame_makes_the_rate_vary() -> None:
    ticks = np.arange(0, 100 * 3600, 3600)
    assert constant_rate(ticks, Fraction(1, 90000), []) == 25
    ticks[50:] += 3600
    assert constant_rate(ticks, Fraction(1, 90000), [Fraction(25)]) is None
