r"""PAC-Bayes bounds as pure functions of a risk, a complexity and a confidence.

Each takes the empirical risk `r` of a weighted ensemble, its complexity `k` in nats
(the codebook's `K`, or a divergence from the prior), the number of examples `n` and
`delta`, and returns a bound on the ensemble's true risk that holds with probability
`1 - delta`. `C = k + log(1/delta)` is the radius. Arguments broadcast; results are in
double precision, and differentiable where the bound is smooth.

`seeger` and its relaxations hold for all complexities at once. The others have a free
number (`beta`, `eta` or `omega`) that must be fixed before the data are seen; `certify`
takes the best of a grid of them, each with its share of `delta`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.errors import BetaRangeError
from pyro_geo.ops.special import binary_kl, kl_inverse, log_xi

__all__ = [
    "binary_kl",
    "catoni",
    "clopper_pearson",
    "kl_inverse",
    "log_xi",
    "mcallester",
    "quadratic",
    "radius",
    "second_moment",
    "seeger",
    "squared_excess",
    "subgamma",
    "subgaussian",
    "thiemann",
    "unexpected_bernstein",
]

Number = float | Tensor

_SMALL_BETA = 1e-6  # below it the closed form loses its digits to cancellation


def radius(k: Number, delta: float) -> Tensor:
    """Add the confidence to a complexity, :math:`C` of the bounds.

    Args:
        k: complexity in nats; may be negative.
        delta: probability that the bound may fail with.

    Returns:
        `max(k + log(1/delta), 0)`.

    Example:
        >>> round(float(radius(2.0, 0.05)), 4)
        4.9957
    """
    check_number("delta", delta, 0.0, 1.0, strict=True)
    return (_double(k) - math.log(delta)).clamp(min=0.0)


def seeger(r: Number, k: Number, n: int, delta: float) -> Tensor:
    r"""Bound a loss in [0, 1] by the inverse of the binary divergence.

    .. math:: \sup\{p : \mathrm{kl}(r \| p) \le (C + \log\xi(n)) / n\}

    The tightest bound that assumes nothing but the range, and the default.

    Returns:
        The bound.

    References:
        Seeger (2002), PAC-Bayesian generalisation error bounds for Gaussian process
        classification; Maurer (2004), A note on the PAC-Bayesian theorem, cs/0411099.

    Example:
        >>> round(float(seeger(0.05, 10.0, 400, 0.05)), 3)
        0.137
    """
    return kl_inverse(r, (radius(k, delta) + log_xi(n)) / n)


def mcallester(r: Number, k: Number, n: int, delta: float) -> Tensor:
    r"""Relax :func:`seeger` by Pinsker's inequality.

    .. math:: r + \sqrt{(C + \log\xi(n)) / (2n)}

    It is never smaller, and smooth enough to be a training objective.

    Returns:
        The bound.

    References:
        McAllester (1999), PAC-Bayesian model averaging.

    Example:
        >>> round(float(mcallester(0.05, 10.0, 400, 0.05)), 3)
        0.192
    """
    # Pinsker: kl(r || p) >= 2 (p - r)^2
    share = (radius(k, delta) + log_xi(n)) / (2 * n)
    return _double(r) + share.sqrt()


def quadratic(r: Number, k: Number, n: int, delta: float) -> Tensor:
    r"""Relax :func:`seeger` where the risk is small.

    .. math:: \bigl(\sqrt{r + e} + \sqrt{e}\bigr)^2, \qquad e = (C + \log\xi(n)) / (2n)

    Returns:
        The bound.

    References:
        Perez-Ortiz et al. (2021), Tighter risk certificates for neural networks, JMLR
        22, 2007.12911.

    Example:
        >>> round(float(quadratic(0.05, 10.0, 400, 0.05)), 3)
        0.166
    """
    # kl(r || p) >= (p - r)^2 / (2 p) for r < p, solved for p
    share = (radius(k, delta) + log_xi(n)) / (2 * n)
    return ((_double(r) + share).sqrt() + share.sqrt()).square()


def thiemann(r: Number, k: Number, n: int, delta: float, *, lam: Number) -> Tensor:
    r"""Relax :func:`seeger` to a form that is convex in the ensemble.

    .. math:: \frac{r}{1 - \lambda/2}
              + \frac{C + \log\xi(n)}{n \lambda (1 - \lambda/2)}

    Holds for all `lam` in (0, 2) at once, so that it may be chosen after the data.

    Returns:
        The bound. Where `lam` is not between 0 and 2, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    References:
        Thiemann et al. (2017), A strongly quasiconvex PAC-Bayesian bound, 1608.05610.

    Example:
        >>> round(float(thiemann(0.05, 10.0, 400, 0.05, lam=0.9)), 3)
        0.173
    """
    lam = _double(lam)
    _within((lam > 0) & (lam < 2), "lam", lam, "between 0 and 2")
    share = (radius(k, delta) + log_xi(n)) / n
    return _double(r) / (1 - lam / 2) + share / (lam * (1 - lam / 2))


def catoni(r: Number, k: Number, n: int, delta: float, *, beta: Number) -> Tensor:
    r"""Bound a loss in [0, 1] at a temperature fixed before the data.

    .. math:: \frac{1 - e^{-\beta r - C/n}}{1 - e^{-\beta}}

    Returns:
        The bound. Where `beta` is not positive, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    References:
        Catoni (2007), PAC-Bayesian supervised classification, 0712.0248.

    Example:
        >>> round(float(catoni(0.05, 10.0, 400, 0.05, beta=1.0)), 3)
        0.125
    """
    r, beta = _double(r), _double(beta)
    _within(beta > 0, "beta", beta, "above 0")
    share = radius(k, delta) / n
    # For a tiny beta, 1 - e^-x <= x bounds the numerator, and the denominator is beta.
    safe = beta.clamp(min=_SMALL_BETA)
    closed = torch.expm1(-safe * r - share) / torch.expm1(-safe)
    return torch.where(beta < _SMALL_BETA, r + share / beta, closed)


def subgaussian(
    r: Number, k: Number, n: int, delta: float, *, beta: Number, variance: float
) -> Tensor:
    r"""Bound a loss whose deviations are sub-Gaussian at every parameter.

    .. math:: r + \frac{C}{\beta n} + \frac{\beta s^2}{2}

    with `s^2` the `variance` proxy; a loss of range `b` has `b**2 / 4`.

    Returns:
        The bound. Where `beta` is not positive, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    Example:
        >>> round(float(subgaussian(0.05, 10.0, 400, 0.05, beta=0.5, variance=0.25)), 3)
        0.177
    """
    beta = _double(beta)
    _within(beta > 0, "beta", beta, "above 0")
    return _double(r) + radius(k, delta) / (beta * n) + beta * variance / 2


def subgamma(
    r: Number,
    k: Number,
    n: int,
    delta: float,
    *,
    beta: Number,
    variance: float,
    scale: float,
) -> Tensor:
    r"""Bound a loss whose deviations are sub-gamma, with tails of some `scale`.

    .. math:: r + \frac{C}{\beta n} + \frac{\beta s^2}{2 (1 - \beta c)}

    Returns:
        The bound. Where `beta` is not positive, or not below 1 / `scale`, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    References:
        Germain et al. (2016), PAC-Bayesian theory meets Bayesian inference,
        1605.08636.

    Example:
        >>> value = subgamma(0.5, 9.0, 900, 0.05, beta=0.5, variance=0.2, scale=1.0)
        >>> round(float(value), 3)
        0.627
    """
    beta = _double(beta)
    _within((beta > 0) & (beta * scale < 1), "beta", beta, f"below 1/{scale}")
    # log-moment of a sub-gamma variable, beta^2 s^2 / (2 (1 - beta c)), over beta
    spread = beta * variance / (2 * (1 - beta * scale))
    return _double(r) + radius(k, delta) / (beta * n) + spread


def second_moment(
    r: Number, k: Number, n: int, delta: float, *, beta: Number, moment: Number
) -> Tensor:
    r"""Bound a non-negative loss of any size by its second moment.

    .. math:: r + \frac{C}{\beta n} + \frac{\beta m_2}{2}

    with `moment` an upper bound on the ensemble's mean of `E loss**2`.

    Returns:
        The bound. Where `beta` is not positive, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    Example:
        >>> round(float(second_moment(0.3, 9.0, 900, 0.05, beta=0.3, moment=0.5)), 3)
        0.419
    """
    beta = _double(beta)
    _within(beta > 0, "beta", beta, "above 0")
    # E exp(-beta (l - E l)) <= exp(beta^2 E l^2 / 2) for a non-negative loss
    spread = beta * _double(moment) / 2
    return _double(r) + radius(k, delta) / (beta * n) + spread


def unexpected_bernstein(
    r: Number,
    k: Number,
    n: int,
    delta: float,
    *,
    eta: Number,
    square: Number,
    upper: float,
) -> Tensor:
    r"""Bound a loss that is at most `upper` by its empirical second moment.

    .. math:: r + \frac{C}{\eta n}
              + v\,\frac{-\log(1 - \eta b) - \eta b}{\eta b^2}

    with `v` the ensemble's mean of `loss**2` over the data, `square`.

    Returns:
        The bound. Where `eta` is not positive, or not below 1 / `upper`, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    References:
        Mhammedi, Grunwald & Guedj (2019), PAC-Bayes un-expected Bernstein inequality,
        1905.13367.

    Example:
        >>> bound = unexpected_bernstein(
        ...     0.05, 10.0, 400, 0.05, eta=0.7, square=0.05, upper=1.0
        ... )
        >>> round(float(bound), 3)
        0.132
    """
    eta = _double(eta)
    _within((eta > 0) & (eta * upper < 1), "eta", eta, f"below 1/{upper}")
    # the factor of the second moment, (-log(1 - eta b) - eta b) / (eta b^2)
    weight = (-torch.log1p(-eta * upper) - eta * upper) / (eta * upper**2)
    return _double(r) + radius(k, delta) / (eta * n) + weight * _double(square)


def squared_excess(
    r: Number,
    k: Number,
    n: int,
    delta: float,
    *,
    omega: Number,
    limit: float,
    noise: float,
    best: Number,
) -> Tensor:
    r"""Bound the excess of a squared loss over that of the true regression function.

    .. math:: \frac{\omega n (r - r^*) + C}{n \kappa}, \qquad
              \kappa = \frac{1 - e^{-4 c B^2}}{4 B^2}, \quad
              c = \omega (1 - 2 \omega \sigma^2)

    for predictions within `2 limit` of the truth and sub-Gaussian noise of scale
    `noise`; `best` is (a lower bound on) the truth's own empirical loss `r*`.

    Returns:
        The bound. Where `omega` is not positive, or not below `1 / (2 noise**2)`, a
        :class:`~pyro_geo.errors.BetaRangeError`.

    Example:
        >>> value = squared_excess(
        ...     0.26, 20.0, 2000, 0.05, omega=0.8, limit=1.0, noise=0.5, best=0.245
        ... )
        >>> round(float(value), 3)
        0.11
    """
    omega = _double(omega)
    _within(
        (omega > 0) & (2 * omega * noise**2 < 1),
        "omega",
        omega,
        f"below 1/(2 * {noise}**2)",
    )
    # the noise costs the factor c / omega, the bounded excess the factor kappa / c
    c = omega * (1 - 2 * omega * noise**2)
    kappa = -torch.expm1(-4 * c * limit**2) / (4 * limit**2)
    gain = omega * n * (_double(r) - _double(best))
    return (gain + radius(k, delta)) / (n * kappa)


def clopper_pearson(mistakes: int, n: int, delta: float) -> float:
    """Bound the risk of one fixed predictor by its mistakes on new data.

    Args:
        mistakes: number of mistakes.
        n: number of predictions.
        delta: probability that the bound may fail with.

    Returns:
        The exact one-sided upper limit of a binomial probability.

    References:
        Clopper & Pearson (1934), The use of confidence or fiducial limits.

    Example:
        >>> round(clopper_pearson(3, 200, 0.05), 4)
        0.0383
    """
    from scipy import stats

    check_number("delta", delta, 0.0, 1.0, strict=True)
    good = 0 <= mistakes <= n and n >= 1
    check(good, "mistakes", f"{mistakes} of {n}", "at least 0 and at most n")
    # the upper quantile of a beta distribution inverts the binomial's tail
    if mistakes == n:
        return 1.0
    return float(stats.beta.isf(delta, mistakes + 1, n - mistakes))


def _double(value: Number) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _within(good: Tensor, name: str, value: Tensor, expected: str) -> None:
    check(
        bool(good.all()),
        name,
        value.flatten()[:4].tolist(),
        expected,
        error=BetaRangeError,
    )
