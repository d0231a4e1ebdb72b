"""What the benchmark of the embedded model says of its aims."""

from __future__ import annotations

import numpy as np
import pytest

from embedded import margin


def clips(noise: float, count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    meant = rng.random((count, 9))
    return list(zip(meant + noise * rng.standard_normal(meant.shape), meant, strict=True))


def test_a_margin_is_what_the_model_has_above_its_aim() -> None:
    assert margin("jaw", clips(0), clips(0)) == pytest.approx((0.15, 0.0))
    assert margin("yaw", clips(0), clips(0)) == pytest.approx((0.05, 0.0))
    worse = clips(0.3)
    read = np.corrcoef(*(np.concatenate(part) for part in zip(*worse, strict=True)))[0, 1]
    assert read < 0.85  # so the aim is a share of what is read on the truth
    assert margin("jaw", worse, worse)[0] == pytest.approx(0.05 * read)


def test_its_error_falls_with_the_number_of_clips() -> None:
    few, many = (margin("jaw", clips(0.3, count), clips(0, count))[1] for count in (6, 96))
    assert 2 < few / many < 8  # four times, by chance more or less


def test_one_clip_has_no_error() -> None:
    assert np.isnan(margin("jaw", clips(0.3)[:1], clips(0)[:1])[1])


def test_clips_without_a_face_say_nothing() -> None:
    some, whole = clips(0.3), clips(0)
    assert margin("jaw", [None, *some], [None, *whole]) == pytest.approx(margin("jaw", some, whole), rel=0.1)
    assert margin("jaw", [None, *some], [whole[0], *whole])[0] == pytest.approx(margin("jaw", some, whole)[0])
    assert margin("jaw", [None] * 6, whole) == pytest.approx((-0.85, 0.0))
