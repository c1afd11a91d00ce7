r"""Logarithms of the incomplete beta functions, with every derivative.

Torch has no incomplete beta function. In :math:`y = \mathrm{logit}\, x` the density
:math:`\sigma(y)^a \sigma(-y)^b / B(a, b)` is log-concave on the whole line, for every
`a` and `b`. The tail that ends at `y` on the side where `y` is falls off monotonously:

    int_0^inf exp(-h(w)) dw,
    h(w) = a log(1 + (e^w - 1) / (1 + e^y)) + b log(1 - (1 - e^-w) / (1 + e^-y))

One double-exponential rule, scaled to where `h` is one, integrates it. What is lost is
what the logarithm of the beta function loses: 1e-12 for shapes of a thousand.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_geo._compat.torch import constants

__all__ = ["log_beta_tails"]

_NODES = 280
_LOW, _HIGH = -3.9, 4.6  # of the rule: beyond, less than 1e-19 of the integral
_HALVINGS = 14  # the scale of the rule need not be exact


def log_beta_tails(a: Tensor, b: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logarithms of both tails of a beta distribution, at a point given by its logit.

    .. math:: \log I_x(a, b), \quad \log(1 - I_x(a, b)), \qquad
        x = \frac{1}{1 + e^{-\text{logit}}}

    Neither underflows, and both are differentiable in all arguments, any number of
    times.

    Args:
        a: first shape, above 0.
        b: second shape, above 0; broadcasts.
        logit: of the point; broadcasts. Infinite at the ends.

    Returns:
        Two logarithms in the type of the arguments; computed in double precision.

    Example:
        >>> half = torch.tensor(0.5, dtype=torch.float64)
        >>> lower, upper = log_beta_tails(half, half, torch.tensor(0.0).double())
        >>> round(lower.exp().item(), 12), round(upper.exp().item(), 12)
        (0.5, 0.5)
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), logit.dtype)
    a, b, y = torch.broadcast_tensors(a.double(), b.double(), logit.double())
    ends = y.isinf()
    y = torch.where(ends, 0.0, y)
    left = y <= a.detach().log() - b.detach().log()  # below the mode in y
    # the upper tail at y is the lower tail at -y with the shapes exchanged
    first, second = torch.where(left, a, b), torch.where(left, b, a)
    place = torch.where(left, y, -y)
    small = _log_front(first, second, place) + _scaled_tail(first, second, place).log()
    other = torch.log1p(-torch.exp(small))
    lower, upper = torch.where(left, small, other), torch.where(left, other, small)
    sign = torch.where(ends, logit.double().sign(), 0.0)
    lower = torch.where(sign < 0, -torch.inf, torch.where(sign > 0, 0.0, lower))
    upper = torch.where(sign > 0, -torch.inf, torch.where(sign < 0, 0.0, upper))
    return lower.to(dtype), upper.to(dtype)


def _log_front(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Logarithm of the density of the logit."""
    norm = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    return norm + a * logsigmoid(y) + b * logsigmoid(-y)


@lru_cache(maxsize=4)
def _rule(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes on the positive half line, and weights."""
    with constants():
        u = torch.linspace(_LOW, _HIGH, _NODES, dtype=torch.float64)
        w = torch.exp(u - torch.exp(-u))
        weight = w * (1 + torch.exp(-u)) * ((_HIGH - _LOW) / (_NODES - 1))
        return w.to(device), weight.to(device)


def _scaled_tail(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Integral of the tail, divided by the density where it ends."""
    scale = _scale(a.detach(), b.detach(), y.detach())
    w, weight = (t.reshape(-1, *[1] * y.dim()) for t in _rule(y.device))
    return scale * (weight * torch.exp(-_drop(a, b, y, scale * w))).sum(0)


def _drop(a: Tensor, b: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """How far the log-density is lower at a distance `w`."""
    inner, outer = torch.sigmoid(-y), torch.sigmoid(y)
    near = w < 1
    short, far = torch.where(near, w, 0.0), torch.where(near, 1.0, w)
    by_a = torch.where(
        near,
        torch.log1p(inner * torch.expm1(short)),
        far + torch.log(inner + outer * torch.exp(-far)),
    )
    return a * by_a + b * torch.log1p(outer * torch.expm1(-w))


@torch.no_grad()
def _scale(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Distance at which the log-density is about one lower."""
    low = torch.full_like(y, -40.0)
    high = torch.log(2 + 2 / a + b / a + (-y).clamp(min=0.0) + y.clamp(min=0.0))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        less = _drop(a, b, y, torch.exp(middle)) < 1
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return torch.exp(0.5 * (low + high))
