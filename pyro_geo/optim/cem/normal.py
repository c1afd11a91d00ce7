r"""The truncated normal distribution that candidates are drawn from.

With :math:`c = \operatorname{erf}(a / \sqrt 2)` the standard normal distribution
truncated to :math:`[-a, a]` is that of

.. math:: z = \sqrt 2 \, \operatorname{erf}^{-1}(c\,u), \qquad u \sim U(-1, 1),

which is the usual inverse of its distribution function, written so that it is symmetric
and needs no subtraction of nearly equal numbers.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["capped_std", "slope_reach", "truncated_normal", "truncated_variance"]

_ROOT = math.sqrt(2.0)


def truncated_normal(
    out: Tensor, trunc: float, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a tensor with draws of a standard normal truncated to `[-trunc, trunc]`.

    Args:
        out: the tensor, of any shape.
        trunc: where the tails are cut; infinity for none.
        generator: source of randomness.

    Returns:
        `out`.

    Example:
        >>> z = truncated_normal(torch.empty(1000), 2.0, torch.Generator())
        >>> bool(z.abs().max() <= 2)
        True
    """
    if math.isinf(trunc):
        return out.normal_(generator=generator)
    edge = math.erf(trunc / _ROOT)
    return out.uniform_(-edge, edge, generator=generator).erfinv_().mul_(_ROOT)


def truncated_variance(trunc: float) -> float:
    r"""Give the variance of a standard normal truncated to `[-trunc, trunc]`.

    .. math:: 1 - \frac{2 a \varphi(a)}{\Phi(a) - \Phi(-a)}

    Args:
        trunc: where the tails are cut; infinity for none.

    Returns:
        The variance, below 1.

    Example:
        >>> round(truncated_variance(2.0), 4)
        0.7737
    """
    if math.isinf(trunc):
        return 1.0
    density = math.exp(-0.5 * trunc**2) / math.sqrt(2.0 * math.pi)
    return 1.0 - 2.0 * trunc * density / math.erf(trunc / _ROOT)


def capped_std(
    mean: Tensor, var: Tensor, lower: Tensor, upper: Tensor, trunc: float
) -> Tensor:
    """Give the standard deviation to draw with, so that no draw leaves the box.

    Args:
        mean: centres, inside the box.
        var: variances.
        lower: lower bounds, which may be infinite.
        upper: upper bounds.
        trunc: where the tails are cut.

    Returns:
        The root of the variance, or the distance to the nearer bound over `trunc`
        where that is smaller.

    Example:
        >>> one, four = torch.ones(1), torch.full((1,), 4.0)
        >>> capped_std(one, four, 0 * one, 9 * one, 2.0)
        tensor([0.5000])
    """
    # a last bit less than the distance: rounding must not carry a draw outside
    share = (1.0 - 8.0 * torch.finfo(mean.dtype).eps) / trunc
    room = torch.minimum(mean - lower, upper - mean)
    return torch.minimum(var.sqrt(), room * share)


def slope_reach(
    elite_frac: float, alpha: float, trunc: float, inflate: float = 1.0
) -> float:
    r"""Say how far a search of infinite population travels down a slope.

    With elite share :math:`\rho`, :math:`Z = \Phi(a) - \Phi(-a)` and
    :math:`t = \Phi^{-1}(\Phi(-a) + \rho Z)`, each step moves the mean by
    :math:`m = (\varphi(a) - \varphi(t)) / (\rho Z)` standard deviations and the elites
    have :math:`w = 1 - (a \varphi(a) + t \varphi(t)) / (\rho Z) - m^2` of the variance.
    All steps together cover

    .. math:: \frac{(1 - \alpha) |m|}{1 - \sqrt{\alpha + (1 - \alpha) w}}.

    Args:
        elite_frac: share of candidates that is elite.
        alpha: weight of the old mean and variance.
        trunc: where noise is cut.
        inflate: what variances of elites are multiplied by.

    Returns:
        The distance in first standard deviations; infinity where the variance does not
        shrink.

    References:
        Derived.

    Example:
        >>> round(slope_reach(0.1, 0.1, 2.0), 3)
        2.192
    """
    normal = NormalDist()
    below = normal.cdf(-trunc)
    mass = elite_frac * (1.0 - 2.0 * below)
    if elite_frac == 1.0:
        return 0.0  # nothing is selected
    t = normal.inv_cdf(below + mass)
    edge = 0.0 if math.isinf(trunc) else trunc * normal.pdf(trunc)
    end = 0.0 if math.isinf(trunc) else normal.pdf(trunc)
    shift = (end - normal.pdf(t)) / mass
    share = inflate * (1.0 - (edge + t * normal.pdf(t)) / mass - shift**2)
    kept = math.sqrt(alpha + (1.0 - alpha) * share)
    return math.inf if kept >= 1.0 else (1.0 - alpha) * abs(shift) / (1.0 - kept)
