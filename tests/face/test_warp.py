"""Affine maps of points and pictures: known answers, and the sampling kernels written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.face.warp import fit_similarity, invert_affine, transform_points, warp_affine


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def linear(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def sample(image: np.ndarray, x: float, y: float, kernel) -> np.ndarray:
    """One colour, black outside the picture."""
    total = np.zeros(3)
    for row in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
        for column in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += kernel(x - column) * kernel(y - row) * image[row, column]
    return total


@settings(max_examples=40, deadline=None)
@given(
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
    seed=st.integers(0, 1000),
)
def test_a_similarity_is_found_again(angle: float, scale: float, shift: tuple[float, float], seed: int):
    points = np.random.default_rng(seed).normal(size=(5, 2)) * 100
    matrix = similarity(angle, scale, shift)
    found = fit_similarity(points, transform_points(points, matrix))
    np.testing.assert_allclose(found, matrix, rtol=1e-6, atol=1e-6 * (1 + max(map(abs, shift))))
    np.testing.assert_allclose(transform_points(transform_points(points, matrix), invert_affine(matrix)), points, 1e-6)


def test_the_fit_is_the_best_of_its_neighbours():
    """Least squares: no small change of the map comes nearer to points that no similarity joins exactly."""
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(5, 2)), generator.normal(size=(5, 2))
    matrix = fit_similarity(source, target)

    def error(a: float, b: float, shift: np.ndarray) -> float:
        changed = np.array([[a, -b, shift[0]], [b, a, shift[1]]])
        return float(np.square(transform_points(source, changed) - target).sum())

    a, b, shift = matrix[0, 0], matrix[1, 0], matrix[:, 2]
    best = error(a, b, shift)
    for step in (-0.01, 0.01):
        assert best < error(a + step, b, shift)
        assert best < error(a, b + step, shift)
        assert best < error(a, b, shift + np.array([step, 0]))
        assert best < error(a, b, shift + np.array([0, step]))


def test_one_point_five_times_is_refused():
    with pytest.raises(UserError, match="one point"):
        fit_similarity(np.full((5, 2), 7.0), np.arange(10.0).reshape(5, 2))


@pytest.mark.parametrize(("mode", "kernel"), [("bicubic", cubic), ("bilinear", linear)])
def test_sampling_follows_its_kernel(mode: str, kernel):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    matrix = similarity(0.4, 0.7, (5.3, -2.6))
    warped = warp_affine(image, matrix, 24, 18, mode)
    inverse = invert_affine(matrix)
    for row in range(18):
        for column in range(24):
            (x, y), *_ = transform_points(np.array([[column, row]]), inverse)
            expected = np.clip(sample(image, x, y, kernel), 0, 255)
            assert np.abs(warped[row, column] - expected).max() <= 0.51, (row, column)


def test_whole_shifts_move_pixels_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    warped = warp_affine(image, similarity(0, 1, (2, 3)), 12, 12, "bicubic")
    expected = np.zeros((12, 12, 3), dtype=np.uint8)
    expected[3:12, 2:9] = image
    np.testing.assert_array_equal(warped, expected)


def test_a_crop_beside_the_picture_is_black():
    image = np.full((8, 8, 3), 200, dtype=np.uint8)
    assert not warp_affine(image, similarity(0, 1, (100, 0)), 6, 6, "bicubic").any()
