"""Gates: checks that a sound kernel passes and a broken one does not.

The statistical ones state their false-alarm rate; :func:`check_ledger` is exact up to
the tolerance of the integrator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.infer.mcmc.dims.result import FlowResult
from pyro_geo.testing._known import KnownTarget
from pyro_geo.testing._posterior_gate import (
    PosteriorCheck,
    check_posterior,
    compare_posterior,
    draws_needed,
)

__all__ = [
    "PosteriorCheck",
    "check_covariance",
    "check_exact",
    "check_gaussian",
    "check_ledger",
    "check_posterior",
    "check_shares",
    "compare_posterior",
    "draws_needed",
    "student_limit",
]

_LARGEST_R_HAT = 1.01
_LEAST_EFFECTIVE = 400.0


@renamed(tol="tolerance")
def check_ledger(result: FlowResult, tolerance: float = 1e-2) -> None:
    """Every trajectory ended in time and its energy and friction work balance.

    Args:
        result: of a dissipative flow.
        tolerance: imbalance allowed, as a share of the energy there was to lose.

    Raises:
        AssertionError: the ledger is broken.
    """
    if not bool(result.finished.all()):
        bad = int((~result.finished).sum())
        raise AssertionError(f"{bad} of {len(result.finished)} trajectories got stuck")
    worst = float(result.energy_error.abs().max())
    if not worst <= tolerance:
        raise AssertionError(
            f"the ledger misses {worst:.2e} of the energy, not {tolerance}"
        )


def check_gaussian(
    draws: Tensor, mean: Tensor, covariance: Tensor, false_alarm: float = 1e-4
) -> None:
    """Chains that started in a normal distribution are still in it.

    All first and second moments are held against the truth by the spread of chain
    means, which needs no autocorrelation; the rate of false alarms is divided over
    all comparisons. A stuck chain inflates its own error bar, so R-hat must be below
    1.01 and the effective size above 400 as well.

    Args:
        draws: `(chains, draws, dim)`, from at least 30 independent chains.
        mean: `(dim,)`.
        covariance: `(dim, dim)`.
        false_alarm: probability that a sound kernel fails the comparison of moments.

    Raises:
        AssertionError: the draws are not from that distribution.
    """
    draws = draws.double()
    chains, length, dim = draws.shape
    centred = draws - mean.double()
    upper = torch.triu_indices(dim, dim)
    products = centred[..., upper[0]] * centred[..., upper[1]]
    wanted = covariance.double()[upper[0], upper[1]]
    excess = torch.cat([centred, products - wanted], -1).mean(1)
    score = _scores(excess)
    limit = student_limit(chains - 1, false_alarm / excess.shape[1])
    if not bool((score.abs() <= limit).all()):
        worst = float(score.abs().max())
        raise AssertionError(f"a moment is off by {worst:.1f} standard errors")
    within = draws.var(1).mean(0)
    between = draws.mean(1).var(0)
    r_hat = ((length - 1) / length + between / within).sqrt()
    # of independent draws the chain means vary by 1 / length of the variance
    effective = chains * torch.diagonal(covariance.double()) / between
    noise = 1.0 / (2 * length)  # R-hat of independent draws is above one by this
    if not bool((r_hat <= _LARGEST_R_HAT + noise).all()):
        raise AssertionError(f"R-hat is {float(r_hat.max()):.3f}: chains disagree")
    if not bool((effective >= _LEAST_EFFECTIVE).all()):
        raise AssertionError(f"effective size is only {float(effective.min()):.0f}")


def check_exact(draws: Tensor, target: KnownTarget, false_alarm: float = 1e-4) -> None:
    """Chains that started in a known target are still in it.

    Draws are mapped to what must be standard normal and held against that by
    :func:`check_gaussian`, all moments of first and second order: a fault in any
    marginal or dependence shows, and heavy tails do no harm.

    Args:
        draws: unconstrained positions, `(chains, draws, dim)`, from at least 30
            independent chains.
        target: what they should be from.
        false_alarm: probability that a sound kernel fails the comparison of moments.
            Draws from elsewhere raise an `AssertionError`.

    Example:
        >>> from pyro_geo.testing.targets import StudentTTarget
        >>> target = StudentTTarget(df=1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = target.sample(5000, generator).view(50, 100, 2)
        >>> check_exact(draws, target)
        >>> check_exact(1.2 * draws, target)
        Traceback (most recent call last):
            ...
        AssertionError: a moment is off by ... standard errors
    """
    z = target.to_normal(draws)
    check_gaussian(z, torch.zeros(target.dim), torch.eye(target.dim), false_alarm)


def check_covariance(
    draws: Tensor, covariance: Tensor, false_alarm: float = 1e-4
) -> None:
    """Independent draws have mean zero and a given covariance.

    Args:
        draws: `(n, dim)`.
        covariance: `(dim, dim)`.
        false_alarm: probability that sound draws fail.

    Raises:
        AssertionError: a first or second moment is off.
    """
    draws = draws.double()
    dim = draws.shape[1]
    upper = torch.triu_indices(dim, dim)
    products = draws[:, upper[0]] * draws[:, upper[1]]
    wanted = covariance.double()[upper[0], upper[1]]
    score = _scores(torch.cat([draws, products - wanted], -1))
    limit = student_limit(len(draws) - 1, false_alarm / len(score))
    worst = float(score.abs().max())
    if not worst <= limit:
        raise AssertionError(f"a moment is off by {worst:.1f} standard errors")


def check_shares(modes: Tensor, masses: Tensor, false_alarm: float = 1e-4) -> None:
    r"""Chains that started in the modes of a known target still have the modes' masses.

    Each chain may stay in one mode for ever, so that its draws count as one. The share
    `s` of a mode of mass `m` over `n` independent chains obeys

    .. math:: P(n \, \mathrm{KL}(s \,\|\, m) > x) \le 2 e^{-x}.

    Args:
        modes: index of the mode that each draw is in, `(chains, draws)`; the chains
            started independently, at exact draws.
        masses: of the modes, with sum one, `(modes,)`.
        false_alarm: probability that a sound sampler fails, at most.

    Raises:
        AssertionError: a share is too far from its mass.

    References:
        Hoeffding (1963), Probability inequalities for sums of bounded random
        variables, equation 2.1.

    Example:
        >>> half = torch.tensor([0.5, 0.5])
        >>> check_shares(torch.tensor([[0], [1]] * 32), half)
        >>> check_shares(torch.zeros(64, 1, dtype=torch.long), half)
        Traceback (most recent call last):
            ...
        AssertionError: mode 0 has 1.000 of the draws of 64 chains, not 0.500
    """
    masses = masses.double()
    per_chain = torch.nn.functional.one_hot(modes, len(masses)).double().mean(1)
    share = per_chain.mean(0)
    divergence = torch.xlogy(share, share / masses)
    divergence += torch.xlogy(1 - share, (1 - share) / (1 - masses))
    limit = math.log(2 * len(masses) / false_alarm)
    worst = int(divergence.argmax())
    if not len(modes) * float(divergence[worst]) <= limit:
        raise AssertionError(
            f"mode {worst} has {float(share[worst]):.3f} of the draws of {len(modes)} "
            f"chains, not {float(masses[worst]):.3f}"
        )


def student_limit(freedom: int, false_alarm: float) -> float:
    """Two-sided limit of Student's t, by its expansion around the normal.

    Args:
        freedom: degrees of freedom, at least 29.
        false_alarm: probability beyond it.

    Returns:
        The limit.

    Example:
        >>> round(student_limit(1_000_000, 0.05), 2)
        1.96
    """
    z = -float(torch.special.ndtri(torch.tensor(false_alarm / 2, dtype=torch.float64)))
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _scores(values: Tensor) -> Tensor:
    """Student's t of the mean of each column, `(n, columns)` to `(columns,)`."""
    error = values.std(0) / math.sqrt(len(values))
    return values.mean(0) / error
