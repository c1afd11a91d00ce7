"""Tails of distributions of one number, as logarithms that do not underflow."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, distributions

from pyro_geo.checks import handled_types
from pyro_geo.errors import UnsupportedError
from pyro_geo.ops.special import log_beta_tails, log_gammainc_pair, log_gammaincc

__all__ = ["log_outside", "log_tails", "supported_bases"]

_LOG_2 = math.log(2)


def supported_bases() -> list[str]:
    """Names of the distributions whose tails are known."""
    return sorted({*handled_types(_tails), "InverseGamma", "LogNormal", "Weibull"})


def log_tails(base: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logarithms of the probabilities of lying below and above a point.

    Each keeps its digits far out, and both are differentiable in the point and in
    the parameters of the distribution.

    Args:
        base: Normal, Laplace, Cauchy, StudentT, Exponential, Gamma, Beta, HalfNormal,
            HalfCauchy or Uniform, or a monotone transform of one, such as LogNormal,
            InverseGamma, Weibull, Gumbel, Pareto or Kumaraswamy.
        x: points inside the support.

    Returns:
        Two logarithms, of the broadcast shape. Another distribution is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    Example:
        >>> import pyro.distributions as dist
        >>> lower, upper = log_tails(dist.Normal(0.0, 1.0), torch.tensor(40.0))
        >>> lower.exp().item(), round(upper.item(), 2)
        (1.0, -804.61)
    """
    return _tails(base, x)


@singledispatch
def _tails(base: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    raise UnsupportedError(
        "the tails of a distribution are not known",
        where="argument base",
        found=type(base).__name__,
        expected=f"one of {', '.join(supported_bases())}, or a monotone transform",
        todo="Write it as a transform of a distribution in the list.",
    )


def _by_side(z: Tensor, negative_tail: Any) -> tuple[Tensor, Tensor]:
    """Both tails of a symmetric law, from the lower one at negative points."""
    left = z < 0
    small = negative_tail(torch.where(left, z, -z))
    large = torch.log1p(-torch.exp(small))
    return torch.where(left, small, large), torch.where(left, large, small)


@_tails.register
def _(base: distributions.Normal, x: Tensor) -> tuple[Tensor, Tensor]:
    return _by_side((x - base.loc) / base.scale, _log_ndtr)


def _log_ndtr(z: Tensor) -> Tensor:
    """Logarithm of the normal tail at negative points; torch cannot map its own."""
    return torch.log(0.5 * torch.special.erfcx(-z / math.sqrt(2))) - 0.5 * z.square()


@_tails.register
def _(base: distributions.Laplace, x: Tensor) -> tuple[Tensor, Tensor]:
    return _by_side((x - base.loc) / base.scale, lambda z: z - _LOG_2)


@_tails.register
def _(base: distributions.Cauchy, x: Tensor) -> tuple[Tensor, Tensor]:
    def tail(z: Tensor) -> Tensor:
        return (torch.atan2(torch.ones_like(z), -z) / math.pi).log()

    return _by_side((x - base.loc) / base.scale, tail)


@_tails.register
def _(base: distributions.StudentT, x: Tensor) -> tuple[Tensor, Tensor]:
    z = (x - base.loc) / base.scale
    outside = _log_outside_t(base.df, torch.ones_like(base.df), z.square())
    return _by_side(z, lambda _: outside - _LOG_2)


@_tails.register
def _(base: distributions.Exponential, x: Tensor) -> tuple[Tensor, Tensor]:
    return _log_expm1(base.rate * x), -base.rate * x


def _log_expm1(x: Tensor) -> Tensor:
    """Logarithm of `1 - exp(-x)`, minus infinity at 0."""
    positive = x > 0
    value = torch.log(-torch.expm1(-torch.where(positive, x, 1.0)))
    return torch.where(positive, value, -torch.inf)


@_tails.register
def _(base: distributions.Gamma, x: Tensor) -> tuple[Tensor, Tensor]:
    return log_gammainc_pair(base.concentration, base.rate * x)


@_tails.register
def _(base: distributions.Beta, x: Tensor) -> tuple[Tensor, Tensor]:
    logit = torch.log(x) - torch.log1p(-x)
    return log_beta_tails(base.concentration1, base.concentration0, logit)


@_tails.register
def _(base: distributions.HalfNormal, x: Tensor) -> tuple[Tensor, Tensor]:
    z = x / base.scale
    upper = _log_ndtr(-z) + _LOG_2
    return torch.log(torch.erf(z / math.sqrt(2))), upper


@_tails.register
def _(base: distributions.HalfCauchy, x: Tensor) -> tuple[Tensor, Tensor]:
    z = x / base.scale
    one = torch.ones_like(z)
    parts = torch.atan2(z, one), torch.atan2(one, z)
    lower, upper = ((2 / math.pi * part).log() for part in parts)
    return lower, upper


@_tails.register
def _(base: distributions.Uniform, x: Tensor) -> tuple[Tensor, Tensor]:
    width = base.high - base.low
    return ((x - base.low) / width).log(), ((base.high - x) / width).log()


@_tails.register
def _(base: distributions.Gumbel, x: Tensor) -> tuple[Tensor, Tensor]:
    rate = torch.exp(-(x - base.loc) / base.scale)
    return -rate, _log_expm1(rate)


@_tails.register
def _(base: distributions.TransformedDistribution, x: Tensor) -> tuple[Tensor, Tensor]:
    if base.event_shape:
        raise UnsupportedError(
            "a vector has no tails",
            where="argument base",
            found=f"{type(base).__name__} of event shape {tuple(base.event_shape)}",
            expected="a distribution of one number",
            todo="Take one coordinate, or an elliptical distribution.",
        )
    sign: int | Tensor = 1
    for transform in reversed(base.transforms):
        inverse: Any = transform.inv(x)
        x = inverse
        sign = sign * transform.sign
    lower, upper = log_tails(base.base_dist, x)
    up = torch.as_tensor(sign, device=x.device) > 0
    return torch.where(up, lower, upper), torch.where(up, upper, lower)


# -- vectors ---------------------------------------------------------------------------


def log_outside(base: Any, x: Tensor) -> Tensor:
    """Log-probability that a distribution lies further out than a point.

    For an elliptical vector that is outside the ellipsoid through the point; for a
    number it is twice the smaller tail.

    Args:
        base: a distribution of one number, see :func:`log_tails`; or
            MultivariateNormal or MultivariateStudentT.
        x: points.

    Returns:
        Log-probabilities, `(..., *batch)`. Another distribution is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    Example:
        >>> import pyro.distributions as dist
        >>> disc = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> log_outside(disc, torch.tensor([1.0, 1.0]))
        tensor(-1.)
    """
    if isinstance(base, distributions.MultivariateNormal):
        square = _squared_length(base, x)
        return log_gammaincc(0.5 * base.event_shape[0], 0.5 * square)
    if isinstance(base, dist.MultivariateStudentT):
        dim = torch.full_like(base.df, float(base.event_shape[0]))
        return _log_outside_t(base.df, dim, _squared_length(base, x))
    lower, upper = log_tails(base, x)
    # rounding at the median may sum to more than one
    return (torch.minimum(lower, upper) + _LOG_2).clamp(max=0.0)


def _squared_length(base: Any, x: Tensor) -> Tensor:
    gap = (x - base.loc).unsqueeze(-1)
    z = torch.linalg.solve_triangular(base.scale_tril, gap, upper=False)
    return z.square().sum((-2, -1))


def _log_outside_t(df: Tensor, dim: Tensor, square: Tensor) -> Tensor:
    """Log-probability that a Student vector is longer than a squared length.

    With `b = df / (df + r^2)`, it is `I_b(df / 2, dim / 2)`.

    Returns:
        The logarithm.
    """
    inside = square > 0
    logit = torch.log(df) - torch.log(torch.where(inside, square, 1.0))
    lower, _ = log_beta_tails(df / 2, dim / 2, logit)
    return torch.where(inside, lower, 0.0)
