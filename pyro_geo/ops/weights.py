"""Weights of particles, always as logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo._compat.arviz import pareto_k, pareto_smooth

__all__ = ["ess", "khat", "log_mean", "next_temperature", "smooth", "systematic"]

_HALVINGS = 60


def ess(log_weights: Tensor) -> Tensor:
    r"""Effective number of particles, :math:`(\sum w)^2 / \sum w^2`.

    Args:
        log_weights: `(*batch, particles)`, not normalised; minus infinity drops one.

    Returns:
        The number, `(*batch,)`.

    Example:
        >>> float(ess(torch.zeros(8))), float(ess(torch.tensor([0.0, -torch.inf])))
        (8.0, 1.0)
    """
    # all in logarithms: weights of e^-1000 would be zero
    doubled = torch.logsumexp(2 * log_weights, -1)
    return (2 * torch.logsumexp(log_weights, -1) - doubled).exp()


def log_mean(log_weights: Tensor) -> Tensor:
    """Logarithm of the mean weight, `(*batch,)` of `(*batch, particles)`."""
    return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])


def systematic(
    log_weights: Tensor, uniform: Tensor, num_draws: int | None = None
) -> Tensor:
    r"""Resample with one random number: each particle has its share, rounded.

    Of `N` draws, :math:`\lfloor N w_i \rfloor` or :math:`\lceil N w_i \rceil` are
    particle `i`, :math:`N w_i` on average.

    Args:
        log_weights: `(particles,)`, not normalised.
        uniform: a number in [0, 1), `()`.
        num_draws: how many to take; as many as there are particles if None.

    Returns:
        Indices of the particles taken, `(num_draws,)`, sorted.

    References:
        Carpenter, Clifford & Fearnhead (1999), Improved particle filter for nonlinear
        problems.

    Example:
        >>> weights = torch.tensor([0.5, 0.25, 0.25]).log()
        >>> systematic(weights, torch.tensor(0.5)).tolist()
        [0, 0, 2]
    """
    count = len(log_weights) if num_draws is None else num_draws
    edges = log_weights.double().softmax(-1).cumsum(-1)
    edges = edges / edges[-1]  # rounding may leave the last one below 1
    # `count` marks at equal distances, all shifted by one uniform number
    marks = (torch.arange(count, device=edges.device) + uniform.double()) / count
    rows = torch.searchsorted(edges, marks, right=True)
    return rows.clamp(max=len(log_weights) - 1)


def next_temperature(
    log_weights: Tensor, loss: Tensor, beta: float, end: float, cess: float
) -> float:
    r"""Largest inverse temperature whose conditional effective size is large enough.

    .. math:: \frac{(\sum_i w_i u_i)^2}{\sum_i w_i u_i^2} \ge c, \qquad
              u_i = e^{-(\beta' - \beta) \ell_i}

    Args:
        log_weights: of the particles, `(particles,)`.
        loss: of each, `(particles,)`.
        beta: their present inverse temperature.
        end: largest value to return.
        cess: least conditional effective size, as a share of all particles.

    Returns:
        The inverse temperature, above `beta` and at most `end`.

    References:
        Zhou, Johansen & Aston (2016), Towards automatic model comparison, 1303.3123.

    Example:
        >>> loss = torch.tensor([0.0, 1.0])
        >>> round(next_temperature(torch.zeros(2), loss, 0.0, 9.0, 0.9), 3)
        0.693
    """
    weights = log_weights.double().log_softmax(-1)

    def share(step: float) -> float:
        """Conditional effective size after a step, relative to all particles."""
        # a dropped particle stays dropped, even if its loss is NaN
        tilted = torch.where(
            weights > -math.inf, weights - step * loss.double(), weights
        )
        # log of w u^2, as `tilted` is log of w u
        squared = torch.where(
            weights > -math.inf, tilted - step * loss.double(), weights
        )
        return float((2 * tilted.logsumexp(-1) - squared.logsumexp(-1)).exp())

    # bisection: the share falls as the step grows
    low, high = 0.0, end - beta
    if share(high) >= cess:
        return end
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) >= cess else (low, middle)
    # a step of at least the smallest number, so that a path of temperatures ends
    return beta + (low if low > 0 else high)


def khat(log_weights: Tensor) -> float:
    """Shape of the tail of importance weights, by ArviZ: unreliable above 0.7.

    Args:
        log_weights: `(particles,)`, not normalised.

    Returns:
        The estimate; NaN for fewer than 30 particles of positive weight.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, 1507.02646.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> khat(torch.randn(400, generator=generator)) < 0.7
        True
    """
    positive = log_weights[log_weights > -math.inf]
    return pareto_k(positive.double().cpu().numpy())


def smooth(log_weights: Tensor) -> tuple[Tensor, float]:
    r"""Smooth the tail of importance weights, by ArviZ.

    Args:
        log_weights: `(particles,)`, not normalised; minus infinity drops one.

    Returns:
        Normalised logarithms, and the shape of the tail, of which :func:`khat` says
        more.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, 1507.02646.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> weights, k = smooth(torch.randn(400, generator=generator))
        >>> round(float(weights.exp().sum()), 4), k < 0.7
        (1.0, True)
    """
    positive = log_weights > -math.inf
    found, k = pareto_smooth(log_weights[positive].double().cpu().numpy())
    result = torch.full_like(log_weights, -math.inf)
    result[positive] = torch.as_tensor(found).to(log_weights)
    return result, k
