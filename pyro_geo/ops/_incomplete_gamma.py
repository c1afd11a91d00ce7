r"""Logarithms of the incomplete gamma functions, with every derivative.

Torch has no gradient of `gammainc` in its first argument. Both tails are one integral
here. With :math:`x^a e^{-x} / \Gamma(a)` in front,

    P:  int_0^inf exp(-h(v)) dv,  h(v) = (a - x) v + x (exp(-v) - 1 + v)
    Q:  int_0^inf exp(-h(v)) dv,  h(v) = (x - a) v + x (exp(v) - 1 - v)

The smaller of the two is computed, as then `h` is convex and grows from 0: one fixed
Gauss-Legendre rule up to where `h` is 44 is exact to rounding for every `a` and `x`.
All terms are positive, so nothing cancels, and so are those of the derivatives.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pyro_geo._compat.torch import constants

__all__ = ["log_gammainc", "log_gammainc_pair", "log_gammaincc"]

_NODES = 56
_DEPTH = 44.0  # exp(-44) is below rounding
_SHIFT = 8  # terms of the series that are summed first, so that a is not small
_LARGE = 10.0  # from here on Stirling's series is exact to rounding
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)


def log_gammainc(a: float | Tensor, x: float | Tensor) -> Tensor:
    r"""Logarithm of the regularised lower incomplete gamma function.

    .. math:: \log P(a, x) = \log \frac{1}{\Gamma(a)} \int_0^x t^{a-1} e^{-t} \, dt

    It does not underflow, and is differentiable in both arguments, any number of
    times. Gradients have the relative accuracy of rounding in both tails, where those
    of a difference `1 - Q` would be lost.

    Args:
        a: shape, above 0.
        x: upper limit, at least 0; broadcasts.

    Returns:
        The logarithm, in the type of the arguments; computed in double precision. NaN
        where an argument is out of range.

    Example:
        >>> a = torch.tensor(500.0, dtype=torch.float64, requires_grad=True)
        >>> value = log_gammainc(a, 10.0)  # torch.special.gammainc gives 0
        >>> round(value.item(), 6), round(torch.autograd.grad(value, a)[0].item(), 6)
        (-1470.017751, -3.913063)
    """
    return log_gammainc_pair(a, x)[0]


def log_gammaincc(a: float | Tensor, x: float | Tensor) -> Tensor:
    r"""Logarithm of the regularised upper incomplete gamma function.

    .. math:: \log Q(a, x) = \log \frac{1}{\Gamma(a)} \int_x^\infty t^{a-1} e^{-t} \, dt

    The complement of :func:`log_gammainc`, with the same properties.

    Args:
        a: shape, above 0.
        x: lower limit, at least 0; broadcasts.

    Returns:
        The logarithm, in the type of the arguments; computed in double precision. NaN
        where an argument is out of range.

    Example:
        >>> log_gammaincc(1.0, torch.tensor(2000.0))
        tensor(-2000.)
    """
    return log_gammainc_pair(a, x)[1]


def log_gammainc_pair(a: float | Tensor, x: float | Tensor) -> tuple[Tensor, Tensor]:
    """Both :func:`log_gammainc` and :func:`log_gammaincc` for the price of one.

    Args:
        a: shape, above 0.
        x: limit, at least 0; broadcasts.

    Returns:
        Logarithms of the lower and of the upper function.

    Example:
        >>> log_p, log_q = log_gammainc_pair(2.0, torch.tensor(1.5))
        >>> torch.isclose(log_p.exp() + log_q.exp(), torch.tensor(1.0))
        tensor(True)
    """
    lower, small, dtype = _smaller_tail(a, x)
    large = torch.log1p(-torch.exp(small))
    log_p, log_q = torch.where(lower, small, large), torch.where(lower, large, small)
    return log_p.to(dtype), log_q.to(dtype)


@lru_cache(maxsize=8)
def _rule(device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on the unit interval."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    with constants():
        parts = torch.from_numpy(0.5 + 0.5 * nodes), torch.from_numpy(0.5 * weights)
        return parts[0].to(device), parts[1].to(device)


def _smaller_tail(
    a: float | Tensor, x: float | Tensor
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Log-probability of the tail that ends at `x` on the side where `x` is.

    Returns:
        Where that is the lower one; its logarithm, in double precision; the type of
        the result.
    """
    tensors = [t for t in (a, x) if isinstance(t, Tensor) and t.is_floating_point()]
    dtype = torch.get_default_dtype()
    if tensors:
        dtype = tensors[0].dtype
        for tensor in tensors[1:]:
            dtype = torch.promote_types(dtype, tensor.dtype)
    device = tensors[0].device if tensors else None
    shape, limit = torch.broadcast_tensors(
        torch.as_tensor(a, dtype=torch.float64, device=device),
        torch.as_tensor(x, dtype=torch.float64, device=device),
    )
    valid = (shape > 0) & (shape < torch.inf) & (limit >= 0)
    inside = valid & (limit > 0) & (limit < torch.inf)
    safe_a, safe_x = torch.where(inside, shape, 1.0), torch.where(inside, limit, 1.0)
    lower = safe_x < safe_a + 1
    small = _log_front(safe_a, safe_x) + torch.log(_scaled_tail(safe_a, safe_x, lower))
    # the edges, and NaN for what is no number or out of range
    edge = torch.where(valid, -torch.inf, torch.nan)
    small = torch.where(inside, small, edge)
    lower = torch.where(inside, lower, limit <= 0)
    return lower, small, dtype


def _log_front(a: Tensor, x: Tensor) -> Tensor:
    """Logarithm of `x^a exp(-x) / Gamma(a + 1)`."""
    large = a >= _LARGE
    big = torch.where(large, a, _LARGE)
    # lgamma as a number of its own would cost digits where a is large
    excess = (x - big) / big
    inverse = 1 / big
    series = torch.zeros_like(big)
    for coefficient in reversed(_STIRLING):
        series = series * inverse.square() + coefficient
    series = series * inverse
    # each form of log(x / a) keeps its digits where the other loses them
    close = excess > -0.5
    near = torch.log1p(torch.where(close, excess, 0.0))
    ratio = torch.where(close, near, torch.log(x / big))
    stirling = big * ratio - (x - big)
    stirling = stirling - 0.5 * torch.log(2 * math.pi * big) - series
    little = torch.where(large, 1.0, a)
    direct = little * torch.log(x) - x - torch.lgamma(little + 1)
    return torch.where(large, stirling, direct)


def _scaled_tail(a: Tensor, x: Tensor, lower: Tensor) -> Tensor:
    """The smaller tail over what :func:`_log_front` is the logarithm of."""
    shape = torch.where(lower, a + _SHIFT, a)
    sign = torch.where(lower, -1.0, 1.0)
    slope = (x - shape) * sign
    nodes, weights = _rule(a.device)
    end = _depth(slope.detach(), x.detach(), sign)
    v = end.unsqueeze(-1) * nodes
    turned = sign.unsqueeze(-1) * v
    rise = slope.unsqueeze(-1) * v + x.unsqueeze(-1) * (torch.expm1(turned) - turned)
    integral = shape * end * (torch.exp(-rise) * weights).sum(-1)
    # the first terms of the series; none of them in the upper tail
    series = integral
    for k in range(_SHIFT, 0, -1):
        series = 1 + x / (a + k) * series
    return torch.where(lower, series, integral)


def _depth(slope: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    """Where the exponent has grown to its end: Newton's method on a convex function."""
    start = 2 * _DEPTH / (slope + torch.sqrt(slope.square() + 2 * _DEPTH * x))
    v = torch.where(sign > 0, torch.minimum(start, torch.log1p(_DEPTH / x)), start)
    for _ in range(4):
        grown = torch.expm1(sign * v)
        value = slope * v + x * (grown - sign * v)
        v = v + (_DEPTH - value) / (slope + x * sign * grown)
    return v
