"""Moments of a cut normal after a scalar measurement, by quadrature between kinks."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check

__all__ = ["Moments", "Problem", "double", "moments_of", "second_moment"]

_NODES = 24  # of Gauss and Legendre in a segment
_FAR = 40.0  # standard deviations beyond which a normal has no mass in double precision


class Problem(NamedTuple):
    """A scalar update in double precision."""

    m: Tensor
    P: Tensor
    g: Tensor  # (..., n), P H' / s
    s: Tensor  # (...), as are all below
    nu: Tensor
    R: Tensor
    cap: Tensor
    radius: Tensor

    @classmethod
    def of(
        cls,
        m: Tensor,
        P: Tensor,
        H: Tensor,
        nu: Tensor,
        R: Tensor | float,
        cap: Tensor | float,
        radius: Tensor | float,
    ) -> Problem:
        """Check the numbers and take them to double precision."""
        matrix, row = P.double(), H.double()
        column = (matrix @ row[..., None])[..., 0]
        s = (row * column).sum(-1).sqrt()
        numbers = [double(x, s) for x in (R, cap, radius)]
        for name, value in (("R", R), ("cap_nats", cap), ("radius", radius)):
            good = isinstance(value, Tensor) or value > 0
            check(good, name, value, "above 0")
        return cls(m.double(), matrix, column / s[..., None], s, nu.double(), *numbers)


class Moments(NamedTuple):
    """Of the place along the measurement, and of what is across it."""

    mean: Tensor
    variance: Tensor
    inner: Tensor
    log_evidence: Tensor


def double(value: Tensor | float, like: Tensor) -> Tensor:
    """Take a number to double precision, on the device of a tensor."""
    return torch.as_tensor(value, dtype=torch.float64, device=like.device)


@lru_cache(maxsize=1)
def _rule() -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.as_tensor(nodes), torch.as_tensor(weights)


def moments_of(
    problem: Problem, severed: Tensor, n: int, *, truncated: bool
) -> Moments:
    """Moments of the place `u` along the measurement, and of what is across it."""
    s, R, cap, radius = problem.s, problem.R, problem.cap, problem.radius
    shape = torch.broadcast_shapes(
        s.shape, severed.shape, R.shape, cap.shape, radius.shape
    )
    nu = torch.where(severed, 0.0, problem.nu).expand(shape)
    s, R, cap, radius = (x.expand(shape) for x in (s, R, cap, radius))
    kalman = nu * s / (s**2 + R)  # posterior of u without cap and radius
    width = (R / (s**2 + R)).sqrt()
    end = torch.minimum(radius, kalman.abs() + _FAR)
    kinks = _kinks(nu, s, R, cap, kalman, width, end)
    # u = end sin(angle): a root at the end of the ball is smooth in the angle
    # segments need not move with the parameters: the integrand has no jumps
    angles = (kinks / end).detach().clamp(-1.0, 1.0).asin().sort(0).values
    x, w = _rule()
    x, w = (t.to(s.device).reshape(-1, 1, *[1] * s.dim()) for t in (x, w))
    middle, half = 0.5 * (angles[1:] + angles[:-1]), 0.5 * (angles[1:] - angles[:-1])
    angle = middle + half * x  # (nodes, segments, ...)
    u = end * angle.sin()
    weight = w * half * end * angle.cos()
    left = torch.where(radius == end, (radius * angle.cos()) ** 2, radius**2 - u**2)
    info = (nu - s * u) ** 2 / (2 * R)
    log_like = -torch.minimum(info, cap)
    if truncated:
        log_like = torch.where(info <= cap, log_like, -math.inf)
    log_prior = -0.5 * u**2 + _log_mass(n - 1, left)
    log_joint = log_prior + log_like
    top = log_joint.detach().amax((0, 1))
    joint = weight * (log_joint - top).exp()
    total = joint.sum((0, 1))
    prior_top = log_prior.detach().amax((0, 1))
    prior_total = (weight * (log_prior - prior_top).exp()).sum((0, 1))
    evidence = total.log() + top - prior_total.log() - prior_top
    mean = (joint * u).sum((0, 1)) / total
    variance = (joint * (u - mean) ** 2).sum((0, 1)) / total
    inner = (joint * second_moment(n - 1, left)).sum((0, 1)) / total
    return Moments(mean, variance, inner, evidence)


def _kinks(
    nu: Tensor,
    s: Tensor,
    R: Tensor,
    cap: Tensor,
    kalman: Tensor,
    width: Tensor,
    end: Tensor,
) -> Tensor:
    """Ends of the segments: kinks, and marks around each narrow part, unsorted."""
    noise = (2 * cap * R).sqrt()
    marks = [-end, end, nu / s]
    marks += [(nu + sign * part * noise) / s for sign in (-1, 1) for part in (0.5, 1)]
    steps = (1, 2, 4, 8, 16)
    marks += [torch.full_like(s, float(sign * k)) for sign in (-1, 1) for k in steps]
    marks += [kalman + sign * k * width for sign in (-1, 1) for k in steps]
    marks += [torch.zeros_like(s), kalman, 0.5 * end, -0.5 * end]
    stacked = torch.stack(marks)
    return torch.maximum(torch.minimum(stacked, end), -end)


def _log_mass(dim: int, square: Tensor) -> Tensor:
    """Logarithm of the chance that a normal of `dim` is within a squared radius."""
    if dim == 0:
        return torch.zeros_like(square)
    half = torch.full_like(square, dim / 2)
    return torch.special.gammainc(half, (square / 2).clamp(min=1e-300)).log()


def second_moment(dim: int, square: Tensor) -> Tensor:
    """Variance, in each direction, of a normal of `dim` cut at a squared radius."""
    if dim == 0:
        return torch.zeros_like(square)
    x = (square / 2).clamp(min=1e-30)
    upper = torch.special.gammainc(torch.full_like(x, dim / 2 + 1), x)
    return upper / torch.special.gammainc(torch.full_like(x, dim / 2), x)
