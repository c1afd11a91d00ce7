"""Special functions: divergences of coins, incomplete gammas, Wright's omega."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count
from pyro_geo.ops._incomplete_beta import log_beta_tails
from pyro_geo.ops._incomplete_gamma import (
    log_gammainc,
    log_gammainc_pair,
    log_gammaincc,
)
from pyro_geo.ops._wright_omega import wright_omega

__all__ = [
    "binary_kl",
    "kl_inverse",
    "log_beta_tails",
    "log_gammainc",
    "log_gammainc_pair",
    "log_gammaincc",
    "log_xi",
    "wright_omega",
]

_HALVINGS = 1100  # enough for bisection between any two doubles
_EXACT_XI = 100_000
_SLACK = 8 * torch.finfo(torch.float64).eps  # above the rounding error of binary_kl


def _double(value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.dtype == torch.float64:
        return value
    return torch.as_tensor(value, dtype=torch.float64)


def binary_kl(q: float | Tensor, p: float | Tensor) -> Tensor:
    r"""Divergence of a coin of chance `q` from one of chance `p`, in nats.

    .. math:: \mathrm{kl}(q \| p) = q \log\frac{q}{p} + (1-q) \log\frac{1-q}{1-p}

    Args:
        q: chance of the first, in [0, 1].
        p: chance of the second; broadcasts.

    Returns:
        The divergence in double precision; infinite where `p` rules out what `q` does
        not.

    Example:
        >>> round(float(binary_kl(0.0, 0.5)), 4), float(binary_kl(0.3, 0.3))
        (0.6931, 0.0)
    """
    q, p = torch.broadcast_tensors(_double(q), _double(p))
    ones = torch.special.xlogy(q, q) - torch.special.xlogy(q, p)
    zeros = torch.special.xlogy(1 - q, 1 - q) - torch.special.xlog1py(1 - q, -p)
    return (ones + zeros).clamp(min=0.0)


def kl_inverse(
    q: float | Tensor, c: float | Tensor, side: Literal["upper", "lower"] = "upper"
) -> Tensor:
    r"""Furthest chance whose divergence from `q` is at most `c`, rounded outward.

    .. math:: \sup\{p : \mathrm{kl}(q \| p) \le c\}

    or the infimum for the lower side. Bisection ends at neighbouring floating-point
    numbers and returns the outer one: rounding never makes the interval too small.
    Differentiable by the implicit function theorem.

    Args:
        q: chance observed, in [0, 1].
        c: radius in nats, at least 0; broadcasts.
        side: which end.

    Returns:
        The chance in double precision. Arguments out of range are a
        :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Langford (2005), Tutorial on practical prediction theory for classification.

    Example:
        >>> round(float(kl_inverse(0.0, 0.1)), 6)  # 1 - exp(-c)
        0.095163
        >>> round(float(kl_inverse(0.1, 0.05)), 4)
        0.2201
    """
    check_choice("side", side, ("upper", "lower"))
    chance, radius = torch.broadcast_tensors(_double(q), _double(c))
    inside = bool(((chance >= 0) & (chance <= 1)).all())
    check(inside, "q", chance.flatten()[:4].tolist(), "chances in [0, 1]")
    positive = bool((radius >= 0).all())
    check(positive, "c", radius.flatten()[:4].tolist(), "at least 0")
    return _Inverse.apply(chance, radius, float(side == "upper"))


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor, edge: float) -> Tensor:
        inner, outer = q.clone(), torch.full_like(q, edge)
        radius = c + _SLACK * (1 + c)
        for _ in range(_HALVINGS):
            middle = 0.5 * (inner + outer)
            between = (middle != inner) & (middle != outer)
            if not bool(between.any()):
                break
            within = binary_kl(q, middle) <= radius
            inner = torch.where(between & within, middle, inner)
            outer = torch.where(between & ~within, middle, outer)
        # If q lies on the opposite edge, the inverse has a closed form, which is
        # rounded only once.
        closed = -torch.expm1(-c) if edge else torch.exp(-c)
        closed = torch.nextafter(closed, torch.full_like(c, 3 * edge - 1))
        p = torch.where(q == 1 - edge, closed.clamp(0.0, 1.0), outer)
        p = torch.where(c == 0, q, p)
        ctx.save_for_backward(q, p)
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        q, p = ctx.saved_tensors
        free = (p != q) & (p > 0) & (p < 1)
        per_c = torch.where(free, p * (1 - p) / (p - q), 0.0)  # 1 / slope of kl in p
        tilt = torch.logit(p, 1e-300) - torch.logit(q, 1e-300)  # minus that in q
        per_q = torch.where(free, tilt * per_c, torch.where(p == q, 1.0, 0.0))
        return grads[0] * per_q, grads[0] * per_c, None


@lru_cache(maxsize=64)
def log_xi(n: int) -> float:
    r"""Logarithm of the moment in the kl bound, at most `log(2 sqrt(n))`.

    .. math:: \xi(n) = \sum_{k=0}^n \binom{n}{k} (k/n)^k (1 - k/n)^{n-k}

    Args:
        n: number of examples, at least 1.

    Returns:
        Its logarithm, in nats; for more than 100,000 examples `log(2 sqrt(n))`.

    References:
        Maurer (2004), A note on the PAC-Bayesian theorem, cs/0411099.

    Example:
        >>> log_xi(1) == math.log(2), log_xi(1000) < math.log(2 * 1000**0.5)
        (True, True)
    """
    check_count("n", n)
    if n > _EXACT_XI:
        return math.log(2 * math.sqrt(n))
    k = torch.arange(n + 1, dtype=torch.float64)
    # the logarithms of the terms, as the terms themselves under- and overflow
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    terms = choose + torch.special.xlogy(k, k / n)
    terms = terms + torch.special.xlogy(n - k, (n - k) / n)
    return float(terms.logsumexp(0))
