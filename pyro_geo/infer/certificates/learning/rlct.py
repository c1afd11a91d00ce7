"""Learning coefficients that are known in closed form.

Sizes that no model can have raise :class:`~pyro_geo.errors.ConfigurationError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from pyro_geo.checks import check

__all__ = [
    "Coefficient",
    "deep_linear",
    "normal_crossing",
    "reduced_rank",
    "regular",
    "relu_upper",
    "tanh_zero",
]


class Coefficient(NamedTuple):
    r"""A learning coefficient: how fast a posterior's free energy grows.

    .. math:: F(t) = \lambda \log t - (m - 1) \log\log t + O(1)

    Attributes:
        value: the coefficient :math:`\lambda`, half the effective number of
            parameters.
        multiplicity: :math:`m`, the order of the pole.
    """

    value: float
    multiplicity: int


def regular(dim: int) -> Coefficient:
    """Coefficient of a model whose parameters are all identified.

    Args:
        dim: number of parameters.

    Returns:
        `dim / 2`, of multiplicity 1.

    Example:
        >>> regular(5)
        Coefficient(value=2.5, multiplicity=1)
    """
    return Coefficient(dim / 2, 1)


def normal_crossing(k: Sequence[int], h: Sequence[int] | None = None) -> Coefficient:
    r"""Coefficient of :math:`\prod_j x_j^{2 k_j}` under :math:`\prod_j |x_j|^{h_j}`.

    The first is the loss, the second the prior density.

    .. math:: \lambda = \min_j \frac{h_j + 1}{2 k_j}, \qquad
              m = \#\{j : \text{the minimum is taken}\}

    Args:
        k: half the powers of the loss, at least one positive.
        h: powers of the prior, zero if None.

    Returns:
        The coefficient.

    References:
        Watanabe (2009), Algebraic geometry and statistical learning theory.

    Example:
        >>> normal_crossing([1, 1])
        Coefficient(value=0.5, multiplicity=2)
    """
    powers = [0] * len(k) if h is None else list(h)
    good = len(powers) == len(k) and any(k) and min(k) >= 0
    check(good, "k and h", (list(k), powers), "powers of one length, some above 0")
    # the pole of the zeta function int K(x)^z phi(x) dx nearest to zero
    ratios = [(b + 1) / (2 * a) for a, b in zip(k, powers, strict=True) if a]
    least = min(ratios)
    return Coefficient(least, sum(math.isclose(r, least) for r in ratios))


def reduced_rank(inputs: int, hidden: int, outputs: int, rank: int) -> Coefficient:
    """Coefficient of reduced-rank regression, a linear network of one hidden layer.

    Args:
        inputs: width of the input.
        hidden: width of the hidden layer.
        outputs: width of the output.
        rank: of the true map.

    Returns:
        The coefficient.

    References:
        Aoyagi & Watanabe (2005), Stochastic complexities of reduced rank regression in
        Bayesian estimation.

    Example:
        >>> reduced_rank(6, 4, 6, rank=2)
        Coefficient(value=13.5, multiplicity=1)
    """
    m, h, n, r = inputs, hidden, outputs, rank
    check(0 <= r <= min(m, h, n), "rank", r, f"between 0 and {min(m, h, n)}")
    # the four cases of Aoyagi and Watanabe's main theorem; in the last one no width
    # exceeds the others by enough, and the parity of the sum decides the multiplicity
    if m + h < n + r:
        return Coefficient((h * m - h * r + n * r) / 2, 1)
    if n + h < m + r:
        return Coefficient((h * n - h * r + m * r) / 2, 1)
    if m + n < h + r:
        return Coefficient(m * n / 2, 1)
    odd = (m + h + n + r) % 2
    total = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n + odd
    return Coefficient(total / 8, 1 + odd)


def deep_linear(widths: Sequence[int], rank: int) -> Coefficient:
    """Coefficient of a linear network of any depth.

    Args:
        widths: of all layers, input and output included.
        rank: of the true map.

    Returns:
        The coefficient.

    References:
        Aoyagi (2024), Consideration on the learning efficiency of multiple-layered
        neural networks with linear units, Neural Networks 172.

    Example:
        >>> deep_linear([3, 3, 3, 3], rank=1)
        Coefficient(value=4.0, multiplicity=3)
    """
    good = len(widths) >= 2 and 0 <= rank <= min(widths)
    check(good, "widths and rank", (list(widths), rank), "layers at least as wide")
    spare = [width - rank for width in widths]
    chosen = _narrow(spare)
    ell = len(chosen) - 1
    base = (-(rank**2) + rank * (widths[0] + widths[-1])) / 2
    if ell == 0:  # a single layer of no spare width
        return Coefficient(base, 1)
    # Aoyagi's M and a: the sum of spare widths is (M - 1) ell + a
    total = sum(chosen)
    level = math.ceil(total / ell)
    a = total - (level - 1) * ell
    pairs = sum(x * y for x, y in itertools.combinations(chosen, 2))
    value = base + a * (ell - a) / (4 * ell)
    value += -ell * (ell - 1) / 4 * (total / ell) ** 2 + pairs / 2
    return Coefficient(value, a * (ell - a) + 1)


def _narrow(spare: list[int]) -> list[int]:
    """Choose the narrow layers that determine the coefficient, as Aoyagi's theorem."""
    # the spare widths chosen are at most their sum / (size - 1), all others above it
    ordered = sorted(spare)
    for size in range(2, len(ordered) + 1):
        inside, outside = ordered[:size], ordered[size:]
        ell, total = size - 1, sum(inside)
        small = not outside or total < ell * outside[0]
        apart = not outside or inside[-1] < outside[0]
        if total >= ell * inside[-1] and small and apart:
            return inside
    return ordered[:1]


def tanh_zero(hidden: int) -> Coefficient:
    """Coefficient of tanh units without biases, with one input and a true map of zero.

    Args:
        hidden: number of units.

    Returns:
        The coefficient.

    References:
        Aoyagi & Nagata (2012), Learning coefficient of generalization error in Bayesian
        estimation and Vandermonde matrix-type singularity.

    Example:
        >>> tanh_zero(4)
        Coefficient(value=1.0, multiplicity=2)
    """
    check(hidden >= 1, "hidden", hidden, "at least 1")
    # lambda = (H + i^2 + i) / (4 i + 2) with i the largest integer of i^2 <= H
    i = math.isqrt(hidden)
    value = (hidden + i**2 + i) / (4 * i + 2)
    return Coefficient(value, 2 if i**2 == hidden else 1)


def relu_upper(widths: Sequence[int], *, rescaled: bool = True) -> float:
    r"""Upper bound for a ReLU network, from the smallest one that is the true map.

    .. math:: \lambda \le \tfrac12 \sum_k H^*_k (H^*_{k-1} + 1)

    whatever width is trained. Scaling a hidden unit up and its output down changes
    nothing, so that each hidden unit adds a flat direction. Half their number can
    therefore be subtracted.

    Args:
        widths: of all layers of the smallest network, input and output included.
        rescaled: whether to subtract these directions.

    Returns:
        The bound.

    References:
        Wang & Yang (2026), PAC-Bayes bounds for Gibbs posteriors via singular learning
        theory, 2604.17219, for the count.

    Example:
        >>> relu_upper([1, 1, 1], rescaled=False), relu_upper([1, 1, 1])
        (2.0, 1.5)
    """
    good = len(widths) >= 2 and min(widths) >= 1
    check(good, "widths", list(widths), "at least two layers of positive width")
    count = sum(b * (a + 1) for a, b in itertools.pairwise(widths)) / 2
    return count - sum(widths[1:-1]) / 2 * rescaled
