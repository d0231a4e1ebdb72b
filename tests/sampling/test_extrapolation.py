"""Known answers for the rules: lines, parabolas, cubics, the sign of the step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.sampling.extrapolation import (
    EXTRAPOLATORS,
    History,
    adaptive_gains,
    combine,
    hermite_terms,
    newton_terms,
    taylor_terms,
    weighted_sum,
)


def extrapolated(rule: str, nodes: list[float], x: float, function) -> float:
    """The prediction at x from the values at nodes, newest first."""
    history = History(rule, len(nodes))
    for node in reversed(nodes):
        history.push(node, torch.tensor([function(node)], dtype=torch.float64))
    return float(history.predict(x))


distinct_nodes = st.lists(st.integers(-40, 40), min_size=4, max_size=4, unique=True).map(lambda n: [v / 8 for v in n])


@pytest.mark.parametrize("rule", ["taylor", "newton", "alp"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_order_one_continues_a_straight_line_in_both_directions(rule, direction):
    nodes = [direction * 10.0, direction * 5.0]
    for k in range(1, 5):
        x = nodes[0] + direction * k
        assert extrapolated(rule, nodes, x, lambda t: 3.0 - 2.0 * t) == pytest.approx(3.0 - 2.0 * x, abs=1e-12)


@pytest.mark.parametrize("rule", [*EXTRAPOLATORS])
def test_a_constant_stays_constant_at_every_order(rule):
    assert extrapolated(rule, [9.0, 7.5, 3.0, 1.0], 12.0, lambda _: 4.0) == pytest.approx(4.0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(nodes=distinct_nodes, x=st.floats(-6, 6), coefficients=st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_newton_is_exact_on_cubics_at_any_spacing(nodes, x, coefficients):
    cubic = np.polynomial.Polynomial(coefficients)
    assert extrapolated("newton", nodes, x, cubic) == pytest.approx(cubic(x), abs=1e-5, rel=1e-5)


def test_taylor_misses_a_parabola_by_the_known_amount():
    """Backward differences of t^2 a step K apart: the prediction k ahead is short by exactly k K."""
    for k in range(1, 5):
        predicted = extrapolated("taylor", [10.0, 5.0, 0.0], 10.0 + k, lambda t: t * t)
        assert predicted == pytest.approx((10.0 + k) ** 2 - 5.0 * k, abs=1e-9)


def test_taylor_coefficients_are_the_paper_s():
    """(-k)^i D^i / (i! K^i) with D^i the paper's finite differences in reversed time, K = 5, k = 2, n = 3."""
    f = [3.0, -1.0, 4.0, 1.5]  # newest first; the paper's D^i f(t) = D^(i-1) f(t + K) - D^(i-1) f(t)
    level, differences = list(f), []
    while level:
        differences.append(level[0])
        level = [older - newer for newer, older in itertools.pairwise(level)]
    expected = sum(
        d * (-2.0) ** i / (factorial * 5.0**i)
        for i, (d, factorial) in enumerate(zip(differences, [1, 1, 2, 6], strict=True))
    )
    weights = combine(taylor_terms([15.0, 10.0, 5.0, 0.0], 17.0))
    assert sum(w * value for w, value in zip(weights, f, strict=True)) == pytest.approx(expected)


def test_newton_amplifies_noise_more_than_taylor():
    """Sums of the absolute weights at k = 4, K = 5, n = 3: 10.9 against 4.6."""
    nodes, x = [15.0, 10.0, 5.0, 0.0], 19.0
    newton, taylor = (sum(map(abs, combine(rule(nodes, x)))) for rule in (newton_terms, taylor_terms))
    assert newton == pytest.approx(10.856)
    assert taylor == pytest.approx(4.5627, abs=1e-4)


def test_hermite_halves_the_slope_and_tames_the_second_order():
    """c = 1/2: H_1 gives k/2 instead of k, and c^2 H_2(k/2) / 2 = (k^2 - 2) / 8 instead of k^2 / 2."""
    terms, taylor = hermite_terms([2.0, 1.0, 0.0], 6.0), taylor_terms([2.0, 1.0, 0.0], 6.0)
    assert np.allclose(terms[1], np.array(taylor[1]) / 2)
    assert np.allclose(terms[2], np.array(taylor[2]) / (16 / 2) * (16 - 2) / 8)


def rates(*values: float) -> list[torch.Tensor]:
    return list(torch.tensor(values, dtype=torch.float64).unbind())


def test_gains_are_one_for_a_steady_latent_and_even_layers():
    assert adaptive_gains(rates(2.0, 2.0, 2.0), [1.0, 1.0], alpha=1.5) == [1.0, 1.0, 1.0]


def test_gains_follow_the_paper():
    """s = (4 / 2.5)^1.5 and w = 1 / sqrt(r): the correction of order i is multiplied by sqrt(r_i) / s."""
    gains = adaptive_gains(rates(1.0, 4.0), [4.0, 9.0], alpha=2.0)
    assert gains == pytest.approx([1.0, 2.0 / 1.6**2, 3.0 / 1.6**2])
    assert adaptive_gains(rates(1.0, 4.0), [1.0], alpha=0.0) == [1.0, 1.0]


def test_history_keeps_the_newest_and_refuses_a_repeated_point():
    history = History("newton", 2)
    for x in (1.0, 2.0, 3.0):
        history.push(x, torch.tensor([x]))
    assert history.nodes == [3.0, 2.0]
    with pytest.raises(AssertionError):
        history.push(3.0, torch.tensor([0.0]))


def test_weighted_sum_of_half_precision_is_taken_in_float32():
    values = [torch.full((4,), 1024.0, dtype=torch.bfloat16), torch.full((4,), 1.0, dtype=torch.bfloat16)]
    total = weighted_sum(values, [1.0, 1.0])
    assert total.dtype == torch.float32
    assert torch.equal(total, torch.full((4,), 1025.0))
