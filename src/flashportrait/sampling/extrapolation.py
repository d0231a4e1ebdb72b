"""Extrapolation of a quantity from the values it had at a few earlier points: the mathematics, without policy.

Every rule here is linear in the stored values, so all it has to say is a row of weights per order::

    f(x) ~ sum_i gain_i sum_j terms[i][j] f(x_j)        x_0 the newest point, x_1 the one before it, ...

Row 0 is the newest value and row i the correction of order i; gains damp or amplify the orders, as Adaptive Latent
Prediction does, and plain extrapolation is the sum of all rows. The points may be unevenly spaced and run in either
direction: only differences ``x - x_j`` appear, so there is no sign to get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Terms = list[list[float]]
"""``terms[i][j]``: weight of the j-th newest value in the correction of order i."""


def taylor_terms(nodes: Sequence[float], x: float) -> Terms:
    """TaylorSeer's expansion (arXiv 2503.06923): repeated difference quotients for derivatives.

    ``D^0 f_j = f_j``, ``D^i f_j = (D^(i-1) f_j - D^(i-1) f_(j+1)) / (x_j - x_(j+1))``, and
    ``f(x) ~ sum_i D^i f_0 (x - x_0)^i / i!``. On points K apart these are the finite differences over ``K^i``.
    Exact for straight lines only: D^i is the derivative near the middle of its points, not at the newest one.
    """
    offset = x - nodes[0]
    return [_scaled(row, offset**i / math.factorial(i)) for i, row in enumerate(_repeated_quotients(nodes))]


def newton_terms(nodes: Sequence[float], x: float) -> Terms:
    """Newton's divided differences: ``f(x) ~ sum_i f[x_0 .. x_i] prod_(j<i) (x - x_j)``.

    Exact on polynomials of degree ``len(nodes) - 1`` at any spacing; for that, more sensitive to noise in the values.
    """
    differences = _identity(len(nodes))
    terms: Terms = []
    product = 1.0
    for order in range(len(nodes)):
        terms.append(_scaled(differences[0], product))
        product *= x - nodes[order]
        differences = [
            _quotient(differences[j], differences[j + 1], nodes[j] - nodes[j + order + 1])
            for j in range(len(differences) - 1)
        ]
    return terms


def hermite_terms(nodes: Sequence[float], x: float, contraction: float = 0.5) -> Terms:
    """Scaled Hermite polynomials instead of powers (HiCache, arXiv 2508.16984).

    ``f(x) ~ f_0 + sum_i D^i f_0 / i! c^i H_i(c (x - x_0))`` with TaylorSeer's D^i, the physicists' H_i and a
    contraction c in (0, 1], which tames the high orders by about ``c^(2i)``. The polynomials have terms of several
    degrees, so the unit of x matters: the source's is the denoising step. At c = 0.5 a straight line is continued with
    half its slope, by design.
    """
    polynomials = _hermite_polynomials(contraction * (x - nodes[0]), len(nodes))
    return [
        _scaled(row, contraction**i * polynomials[i] / math.factorial(i))
        for i, row in enumerate(_repeated_quotients(nodes))
    ]


EXTRAPOLATORS: dict[str, Callable[[Sequence[float], float], Terms]] = {
    "taylor": taylor_terms,
    "newton": newton_terms,
    "hermite": hermite_terms,
    "alp": taylor_terms,
}
"""The rules by name. Adaptive Latent Prediction is Taylor's with ``adaptive_gains``."""


Number = float | Tensor
"""A number, or a scalar that stays on its device: asking for its value would wait for the device."""


def adaptive_gains(latent_rates: Sequence[Tensor], layer_ratios: Sequence[float], alpha: float) -> list[Number]:
    """Gains of the orders 0 .. n in Adaptive Latent Prediction (arXiv 2512.16900): 1, then ``1 / (w_i s)``.

    ``s = (rate / mean rate)^alpha``: a stretch where the latent moves faster than it has so far is extrapolated less.
    ``w_i = 1 / sqrt(r_i)``, r_i being the size of the layer's i-th derivative over that of the layers' mean: a layer
    that varies more than the rest is extrapolated more.

    Args:
        latent_rates: the latent's rate of change at every step up to the newest point's, in order, scalars.
        layer_ratios: ``r_1 .. r_n``; all 1 where the quantity has a single layer, as the guided velocity has.
        alpha: exponent of s; 0 leaves s out.
    """
    rates = torch.stack(list(latent_rates))
    s = torch.where(rates[-1] > 0, rates[-1] / rates.mean(), 1.0) ** alpha
    return [1.0, *(math.sqrt(ratio) / s for ratio in layer_ratios)]


class History:
    """The newest values of one quantity, what they were functions of, and what follows from them elsewhere.

    Args:
        rule: a name in ``EXTRAPOLATORS``.
        length: values kept; the highest order of extrapolation is one less.
    """

    def __init__(self, rule: str, length: int):
        self._terms = EXTRAPOLATORS[rule]
        self._length = length
        self.nodes: list[float] = []
        """Where the values were taken, newest first."""
        self.values: list[Tensor] = []
        """The values, newest first, all of one shape."""

    def __len__(self) -> int:
        return len(self.nodes)

    def push(self, x: float, value: Tensor) -> None:
        """Remembers the value at x, and forgets the oldest if there are too many."""
        assert x not in self.nodes, f"a value at {x} is known already"
        self.nodes = [x, *self.nodes][: self._length]
        self.values = [value, *self.values][: self._length]

    def predict(self, x: float, gains: Sequence[Number] | None = None) -> Tensor:
        """The value expected at x, float32 or wider; all gains are 1 unless given."""
        return weighted_sum(self.values, combine(self._terms(self.nodes, x), gains))

    def derivatives(self, part: Callable[[Tensor], Tensor] = lambda value: value) -> list[Tensor]:
        """``D^1 .. D^n`` at the newest point, as TaylorSeer estimates them, of the values or of a part of each."""
        values = [part(value) for value in self.values]
        return [weighted_sum(values, row) for row in _repeated_quotients(self.nodes)[1:]]


def combine(terms: Terms, gains: Sequence[Number] | None = None) -> list[Number]:
    """Weights of the values, newest first: the rows of ``terms`` times their gains (1 unless given), added up."""
    gains = [1.0] * len(terms) if gains is None else gains
    return [
        sum(gain * weight for gain, weight in zip(gains, column, strict=True)) for column in zip(*terms, strict=True)
    ]


def weighted_sum(values: Sequence[Tensor], weights: Sequence[Number]) -> Tensor:
    """``sum_j weights[j] values[j]``, summed in float32 or wider."""
    result = values[0].to(torch.promote_types(values[0].dtype, torch.float32)) * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        if isinstance(weight, Tensor):
            result.add_(value.to(result.dtype) * weight)
        else:
            result.add_(value, alpha=weight)
    return result


def _repeated_quotients(nodes: Sequence[float]) -> Terms:
    """Row i: D^i f_0 as weights of the values."""
    level = _identity(len(nodes))
    rows = [level[0]]
    while len(level) > 1:
        level = [_quotient(level[j], level[j + 1], nodes[j] - nodes[j + 1]) for j in range(len(level) - 1)]
        rows.append(level[0])
    return rows


def _hermite_polynomials(x: float, count: int) -> list[float]:
    """``H_0 .. H_(count-1)`` at x: ``H_0 = 1``, ``H_1 = 2x``, ``H_(n+1) = 2x H_n - 2n H_(n-1)``."""
    values = [1.0, 2.0 * x]
    for n in range(1, count - 1):
        values.append(2.0 * x * values[n] - 2.0 * n * values[n - 1])
    return values[:count]


def _identity(size: int) -> Terms:
    return [[float(i == j) for j in range(size)] for i in range(size)]


def _scaled(row: Sequence[float], factor: float) -> list[float]:
    return [factor * weight for weight in row]


def _quotient(newer: Sequence[float], older: Sequence[float], spacing: float) -> list[float]:
    return [(a - b) / spacing for a, b in zip(newer, older, strict=True)]
