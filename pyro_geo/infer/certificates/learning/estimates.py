"""Learning coefficients from losses at one or two temperatures, or along a path."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.density import Target
from pyro_geo.errors import BetaRangeError, ConvergenceWarning
from pyro_geo.infer.certificates.learning.agreement import compare_chains
from pyro_geo.infer.certificates.learning.rlct import Coefficient
from pyro_geo.infer.mcmc.hmc.kernel import HMC
from pyro_geo.infer.mcmc.runner import MCMC
from pyro_geo.ops.chunks import map_chunks

__all__ = [
    "Estimate",
    "fit_free_energy",
    "heat_capacity",
    "sbic",
    "tempered_losses",
    "two_temperature",
    "wbic",
]

_DECADES = 3.0  # of temperature, at the cold end of a path, that are fitted


class Estimate(NamedTuple):
    """A number, its standard error, and what speaks against it.

    Attributes:
        value: the estimate; NaN where it is not `reliable`.
        standard_error: from the spread of the chains.
        reliable: whether nothing speaks against it.
        reasons: what does: chains that disagree, losses that are not finite.
    """

    value: float
    standard_error: float
    reliable: bool = True
    reasons: tuple[str, ...] = ()


def tempered_losses(
    target: Target,
    beta: float,
    *,
    num_samples: int = 200,
    warmup_steps: int | None = None,
    num_chains: int = 16,
    seed: int | None = None,
) -> Tensor:
    r"""Sample a posterior at one temperature and return the summed loss of each draw.

    .. math:: w \sim \pi(w) e^{-\beta n L_n(w)}, \qquad n L_n = -\log p(D \mid w)

    Raises :class:`~pyro_geo.errors.BetaRangeError` where `beta` is not positive.

    Args:
        target: of a model or a module.
        beta: inverse temperature of one example.
        num_samples: draws of each chain.
        warmup_steps: of each chain.
        num_chains: chains, in one batch.
        seed: of the run.

    Returns:
        The losses in nats, `(chains, draws)`.

    Example:
        >>> target = Target.from_potential(
        ...     lambda q: 50 * (q**2).sum(), 2, dtype=torch.float64
        ... )
        >>> losses = tempered_losses(target, 0.5, num_samples=100, seed=1)
        >>> abs(float(losses.mean()) - 2.0) < 0.3  # d / (2 beta)
        True
    """
    check(0 < beta < math.inf, "beta", beta, "a positive number", error=BetaRangeError)
    density = target.density

    def potential(q: Tensor, beta: Tensor, *data: Tensor) -> Tensor:
        terms = density.terms(q, data)
        return -(terms.log_prior + beta * terms.log_likelihood)

    number = torch.tensor(beta, dtype=target.dtype, device=target.device)
    tempered = Target.from_potential(
        potential, target.dim, number, *target.data, dtype=target.dtype
    )
    fit = MCMC(
        HMC(tempered),
        num_samples,
        warmup_steps,
        num_chains,
        seed=seed,
        progress_bar=False,
    ).run()
    q = fit.positions
    log_likelihood = map_chunks(target.log_likelihood, q.flatten(0, 1), 256)
    return -log_likelihood.double().reshape(q.shape[:2])


def wbic(
    target: Target, n: int, *, seed: int | None = None, **options: int
) -> Estimate:
    r"""Estimate the free energy by the loss at one temperature.

    .. math:: \mathrm{WBIC} = E_{1/\log n}[n L_n]

    Args:
        target: of a model or a module.
        n: number of examples, at least 2; fewer are a
            :class:`~pyro_geo.errors.BetaRangeError`.
        seed: of the run.
        **options: of :func:`tempered_losses`.

    Returns:
        The estimate, in nats; without a value where chains disagree.

    Warns:
        ConvergenceWarning: chains disagree.

    References:
        Watanabe (2013), A widely applicable Bayesian information criterion, JMLR 14.

    Example:
        >>> target = Target.from_potential(
        ...     lambda q: 7 + 50 * (q**2).sum(), 2, dtype=torch.float64
        ... )
        >>> found = wbic(target, 100, num_samples=100, seed=1)
        >>> abs(found.value - (7 + math.log(100))) < 0.6  # nL_n(w0) + d/2 log n
        True
    """
    check(n >= 2, "n", n, "at least 2 examples", error=BetaRangeError)
    losses = tempered_losses(target, 1 / math.log(n), seed=seed, **options)
    return _warned("wbic", _mean(losses))


def two_temperature(
    first: Tensor, beta_first: float, second: Tensor, beta_second: float
) -> Estimate:
    r"""Estimate a coefficient without knowing the least loss.

    .. math:: \hat\lambda = \frac{E_{\beta_1}[n L_n] - E_{\beta_2}[n L_n]}
                                 {1/\beta_1 - 1/\beta_2}

    Raises :class:`~pyro_geo.errors.BetaRangeError` where the temperatures are
    equal, or not positive.

    Args:
        first: summed losses at one temperature, `(chains, draws)`.
        beta_first: inverse temperature of these.
        second: summed losses at another temperature, `(chains, draws)`.
        beta_second: inverse temperature of these.

    Returns:
        The estimate; without a value where the chains of one of them disagree.

    Warns:
        ConvergenceWarning: chains disagree.

    References:
        Watanabe (2013), A widely applicable Bayesian information criterion, JMLR 14,
        corollary 3.

    Example:
        >>> hot, cold = torch.full((2, 3), 8.0), torch.full((2, 3), 4.0)
        >>> two_temperature(hot, 0.25, cold, 0.5).value
        2.0
    """
    betas = beta_first, beta_second
    differ = beta_first != beta_second and min(betas) > 0
    expected = "two different positive numbers, such as 1 / log(n) and 1.5 / log(n)"
    check(differ, "beta_first and beta_second", betas, expected, error=BetaRangeError)
    a, b = _mean(first), _mean(second)
    gap = 1 / beta_first - 1 / beta_second
    error = math.hypot(a.standard_error, b.standard_error) / abs(gap)
    value = (a.value - b.value) / gap
    reasons = tuple(
        f"at inverse temperature {beta:.3g}, {reason}"
        for beta, side in zip(betas, (a, b), strict=True)
        for reason in side.reasons
    )
    return _warned("two_temperature", Estimate(value, error, not reasons, reasons))


def heat_capacity(losses: Tensor, beta: float) -> float:
    r"""Estimate a coefficient by the fluctuation of the loss.

    .. math:: \hat\lambda = \beta^2 \, \mathrm{Var}_\beta(n L_n)

    Args:
        losses: summed, `(chains, draws)`.
        beta: inverse temperature of one example.

    Returns:
        The estimate; NaN where chains disagree, cannot be compared, or hold losses
        that are not finite.

    Warns:
        ConvergenceWarning: there is no estimate.

    Example:
        >>> losses = torch.tensor([1.0, 3.0]).repeat(2, 8)
        >>> round(heat_capacity(losses, 0.5), 3)
        0.258
    """
    reasons = compare_chains(losses).reasons
    value = float(beta**2 * losses.double().var())
    found = Estimate(value, math.nan, not reasons, reasons)
    return _warned("heat_capacity", found).value


def fit_free_energy(t: Tensor, free_energy: Tensor, multiplicity: int = 1) -> Estimate:
    r"""Fit a coefficient to the free energy along a path of temperatures.

    .. math:: F(t) + (m - 1) \log\log t = \lambda \log t + c, \qquad t = n \beta

    over the last three decades. The multiplicity must be known. A fit cannot find it,
    because `log t` and `log log t` are nearly proportional there.

    Raises :class:`~pyro_geo.errors.ShapeError` where fewer than three points lie
    above 1.

    Args:
        t: inverse temperatures times `n`, above 1, `(points,)`.
        free_energy: at each, less `t` times the least mean loss, `(points,)`.
        multiplicity: the known order of the pole, :math:`m`.

    Returns:
        The coefficient, and the standard error of the regression.

    Example:
        >>> t = torch.logspace(1, 4, 20).double()
        >>> round(fit_free_energy(t, 1.5 * t.log() + 2.0).value, 6)
        1.5
    """
    t, free_energy = t.double(), free_energy.double()
    late = (t > 1) & (t >= t.max() * 10**-_DECADES)
    check_shape("t", t.shape, free_energy.shape)
    finite = bool(t.isfinite().all() and free_energy.isfinite().all())
    check(finite, "t and free_energy", "NaN or infinity", "finite numbers")
    check_shape(
        "t", (int(late.sum()),), "at least three points above 1", int(late.sum()) >= 3
    )
    x = t[late].log()
    y = free_energy[late] + (multiplicity - 1) * x.log()
    # ordinary least squares with a constant, and the standard error of its slope
    x = x - x.mean()
    slope = (x * y).sum() / x.square().sum()
    residual = y - y.mean() - slope * x
    freedom = max(len(x) - 2, 1)
    error = (residual.square().sum() / freedom / x.square().sum()).sqrt()
    return Estimate(float(slope), float(error))


def sbic(loss: float, n: int, coefficient: Coefficient) -> float:
    r"""Singular BIC: the least loss and the penalty of a coefficient, in nats.

    .. math:: n L_n(\hat w) + \lambda \log n - (m - 1) \log\log n

    Args:
        loss: least summed loss.
        n: number of examples, at least 3.
        coefficient: learning coefficient, known or assumed.

    Returns:
        An estimate of the free energy.

    References:
        Drton & Plummer (2017), A Bayesian information criterion for singular models,
        1309.0911.

    Example:
        >>> round(sbic(10.0, 100, Coefficient(0.5, 1)), 4)
        12.3026
    """
    check_count("n", n, 3)
    log_n = math.log(n)
    return (
        loss
        + coefficient.value * log_n
        - (coefficient.multiplicity - 1) * math.log(log_n)
    )


def _mean(losses: Tensor) -> Estimate:
    """Mean of `(chains, draws)`, its error from the spread of the chains' means."""
    means = losses.double().mean(1)
    error = float(means.std()) / len(means) ** 0.5 if len(means) > 1 else math.nan
    reasons = compare_chains(losses).reasons
    return Estimate(float(means.mean()), error, not reasons, reasons)


def _warned(where: str, found: Estimate) -> Estimate:
    """Take the value from an estimate that is not reliable, and say why."""
    for reason in found.reasons:
        warnings.warn(
            ConvergenceWarning(
                "the result is not reliable",
                where=where,
                found=reason,
                expected="finite losses, and chains that agree",
                todo="Draw longer, or from more chains.",
            ),
            stacklevel=3,
        )
    return found if found.reliable else found._replace(value=math.nan)
