r"""Quantiles of distributions of one number, by signed nats.

A point has the tail :math:`I = -\log(2 \min(F, 1 - F))`, and a sign: minus below the
median. The signed tail :math:`z` is a Laplace variable for every distribution, and no
digit of either tail is lost in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, distributions
from torch.nn.functional import logsigmoid

from pyro_geo.checks import handled_types
from pyro_geo.errors import UnsupportedError
from pyro_geo.geometry.tails import log_tails
from pyro_geo.ops.special import log_beta_tails, log_gammainc_pair

__all__ = ["check_quantiles", "place", "quantile_bases", "signed_tail"]

_LOG_2 = math.log(2)
_TINY = -600.0  # logarithm of a number that is nearly too small
_SEARCH = 20  # steps of Newton's method, kept in brackets


def quantile_bases() -> list[str]:
    """Names of the distributions whose quantiles are known."""
    return sorted({*handled_types(_place), "InverseGamma", "LogNormal", "Weibull"})


def signed_tail(base: Any, x: Tensor) -> Tensor:
    """Nats of the tail at a point, negative below the median.

    Args:
        base: a distribution of one number.
        x: points inside the support.

    Returns:
        Signed nats, differentiable in the point and in the parameters.
    """
    lower, upper = log_tails(base, x)
    below = lower < upper
    # at the median both are -log 2, and z goes through zero with slope 2 f
    return torch.where(below, lower + _LOG_2, -(upper + _LOG_2))


def place(base: Any, z: Tensor) -> Tensor:
    """Point of a distribution whose signed tail is given: the inverse.

    Args:
        base: a distribution of one number.
        z: signed nats.

    Returns:
        Points, differentiable in the nats and in the parameters. A base without
        quantiles is an :class:`~pyro_geo.errors.UnsupportedError`.
    """
    return _place(base, z)


def check_quantiles(base: Any) -> None:
    """Refuse a base without quantiles, before anything is computed.

    Args:
        base: a distribution; without quantiles it is an
            :class:`~pyro_geo.errors.UnsupportedError`.
    """
    inner = base
    while isinstance(inner, distributions.TransformedDistribution):
        if _place.dispatch(type(inner)) is not _of_transformed:
            return
        inner = inner.base_dist
    if _place.dispatch(type(inner)) is _place.dispatch(object):
        _place(inner, torch.zeros(()))


@singledispatch
def _place(base: Any, z: Tensor) -> Tensor:
    raise UnsupportedError(
        "the quantiles of a distribution are not known",
        where="argument base",
        found=type(base).__name__,
        expected=f"one of {', '.join(quantile_bases())}",
        todo="Write it as a monotone transform of one of them; for an elliptical base "
        "use its own bounded distribution.",
    )


def _sides(z: Tensor) -> tuple[Tensor, Tensor]:
    """Which points are below the median, and the probability further out on one side.

    The second is differentiable at the median too.

    Returns:
        Booleans and probabilities of at most one half.
    """
    below = z < 0
    return below, 0.5 * torch.exp(torch.where(below, z, -z))


def _symmetric(base: Any, z: Tensor, quantile: Callable[[Tensor], Tensor]) -> Tensor:
    below, p = _sides(z)
    score = quantile(p)
    return base.loc + base.scale * torch.where(below, score, -score)


@_place.register
def _(base: distributions.Normal, z: Tensor) -> Tensor:
    return _symmetric(base, z, torch.special.ndtri)


@_place.register
def _(base: distributions.Laplace, z: Tensor) -> Tensor:
    return base.loc + base.scale * z


@_place.register
def _(base: distributions.Cauchy, z: Tensor) -> Tensor:
    return _symmetric(base, z, lambda p: -1 / torch.tan(math.pi * p))


@_place.register
def _(base: distributions.Exponential, z: Tensor) -> Tensor:
    below, p = _sides(z)
    # log(2) is in the parts: log p = z - log 2 above the median
    scaled = torch.where(below, -torch.log1p(-p), torch.where(below, 0.0, z) + _LOG_2)
    return scaled / base.rate


@_place.register
def _(base: distributions.HalfNormal, z: Tensor) -> Tensor:
    below, p = _sides(z)
    lower = math.sqrt(2) * torch.erfinv(torch.where(below, p, 0.5))
    upper = -torch.special.ndtri(0.5 * torch.where(below, 0.5, p))
    return base.scale * torch.where(below, lower, upper)


@_place.register
def _(base: distributions.HalfCauchy, z: Tensor) -> Tensor:
    below, p = _sides(z)
    tangent = torch.tan(0.5 * math.pi * p)
    return base.scale * torch.where(below, tangent, 1 / tangent)


@_place.register
def _(base: distributions.Uniform, z: Tensor) -> Tensor:
    below, p = _sides(z)
    step = (base.high - base.low) * p
    return torch.where(below, base.low + step, base.high - step)


@_place.register
def _(base: distributions.Gumbel, z: Tensor) -> Tensor:
    below, p = _sides(z)
    rate = -torch.where(below, torch.log(p), torch.log1p(-p))
    return base.loc - base.scale * torch.log(rate)


@_place.register
def _of_transformed(base: distributions.TransformedDistribution, z: Tensor) -> Tensor:
    sign: int | Tensor = 1
    for transform in base.transforms:
        sign = sign * transform.sign
    x = place(base.base_dist, sign * z)
    for transform in base.transforms:
        forward: Any = transform(x)
        x = forward
    return x


# -- by search -------------------------------------------------------------------------


@_place.register
def _(base: distributions.Gamma, z: Tensor) -> Tensor:
    shape, signed = torch.broadcast_tensors(base.concentration, z)
    a = shape.double()
    constant = torch.lgamma(a)

    def tails(log_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # below, the first term of the series is all of it
        tiny = log_x < _TINY
        x = torch.exp(torch.where(tiny, _TINY, log_x))
        lower, upper = log_gammainc_pair(a, x)
        lower = torch.where(tiny, a * log_x - constant - a.log(), lower)
        return lower, upper, a * log_x - x - constant

    with torch.no_grad():
        # a lower point has P below x^a / Gamma(a + 1), and the median is above zero
        low = (signed.double().clamp(max=0.0) - _LOG_2 + torch.lgamma(a + 1)) / a
        low = torch.minimum(low, torch.log(a)) - 1e-3
        nats = signed.double().clamp(min=0.0) + 1
        high = torch.log(a + 2 + 3 * nats) + torch.log1p(2 * torch.sqrt(nats / a))
    log_x = _solve(tails, signed.double(), low, high)
    return torch.exp(log_x).to(signed.dtype) / base.rate


@_place.register
def _(base: distributions.Beta, z: Tensor) -> Tensor:
    first, second, signed = torch.broadcast_tensors(
        base.concentration1, base.concentration0, z
    )
    a, b = first.double(), second.double()
    constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)

    def tails(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_slope = constant + a * logsigmoid(y) + b * logsigmoid(-y)
        return *log_beta_tails(a, b, y), log_slope

    with torch.no_grad():
        # beyond these the tails are those of exp(a y) and exp(-b y)
        nats = signed.double().abs() + 3
        middle = torch.log(a) - torch.log(b)
        low = middle - nats * (1 + 2 / a) - 5 * (1 / a + 1 / b).sqrt()
        high = middle + nats * (1 + 2 / b) + 5 * (1 / a + 1 / b).sqrt()
    y = _solve(tails, signed.double(), low, high)
    return torch.sigmoid(y).to(signed.dtype)


def _solve(
    tails: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    z: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Find where the signed tail is `z`, twice differentiable.

    Args:
        tails: logarithms of both tails and of the density at a point.
        z: signed nats.
        low: a point below.
        high: a point above.

    Returns:
        The points.
    """

    def newton(y: Tensor, z: Tensor) -> Tensor:
        lower, upper, log_slope = tails(y)
        below = lower < upper
        small = torch.where(below, lower, upper)
        found = torch.where(below, small + _LOG_2, -(small + _LOG_2))
        # the signed tail grows by the density over the smaller tail
        return (z - found) * torch.exp(small - log_slope)

    with torch.no_grad():
        y = 0.5 * (low + high)
        for _ in range(_SEARCH):
            step = newton(y, z.detach())
            low, high = torch.where(step > 0, y, low), torch.where(step < 0, y, high)
            y = y + step
            y = torch.where((y > low) & (y < high), y, 0.5 * (low + high))
    # two differentiated steps make the second derivatives right too
    y = y.detach()
    for _ in range(2):
        y = y + newton(y, z)
    return y
