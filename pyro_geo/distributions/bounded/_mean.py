"""Means over bounded distributions of one number, by quadrature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.distributions.bounded._quadrature import make_grid
from pyro_geo.distributions.bounded.symmetric import BoundedSymmetric

__all__ = ["interval_mean", "log_integral", "symmetric_kl"]


def symmetric_kl(p: BoundedSymmetric, q: Any) -> Tensor:
    """Divergence of a symmetric bounded distribution from one with a location.

    Args:
        p: the bounded one.
        q: a distribution of one number that is positive on its interval.

    Returns:
        Nats, of the broadcast batch shape.
    """
    loc, reach = p.loc.double(), (p.radius * p.scale).double()
    low, high = loc - reach, loc + reach
    other = torch.minimum(torch.maximum(q.loc.double(), low), high)
    low, high, loc = (x + torch.zeros_like(other) for x in (low, high, loc))
    kinks = torch.minimum(loc, other), torch.maximum(loc, other)

    def own(x: Tensor) -> Tensor:
        z = (x - loc) / p.scale
        return p.radial.log_density(z.square()) - torch.log(p.scale.double())

    def weight(x: Tensor) -> Tensor:
        z = (x - loc) / p.scale
        return p.whitened_log_prob(z.square(), torch.zeros_like(z, dtype=torch.bool))

    gap = interval_mean(weight, (low, *kinks, high), lambda x: own(x) - q.log_prob(x))
    return p.kl_to_base() + gap.to(p.loc.dtype)


def interval_mean(
    log_density: Callable[[Tensor], Tensor],
    ends: Sequence[Tensor],
    values: Callable[[Tensor], Tensor],
) -> Tensor:
    """Mean of functions of a number over an interval, smooth between some points.

    Args:
        log_density: unnormalised, of points `(nodes, *batch)`.
        ends: of the smooth pieces, ascending, `(*batch,)`.
        values: of points `(nodes, *batch)`; `(..., nodes, *batch)`.

    Returns:
        Means, `(..., *batch)`.
    """
    pieces = [_nodes(log_density, low, high) for low, high in pairwise(ends)]
    heights, points = zip(*pieces, strict=True)
    weight = torch.cat(heights).softmax(0)
    return (weight * values(torch.cat(points))).sum(-weight.dim())


def log_integral(
    log_density: Callable[[Tensor], Tensor], ends: Sequence[Tensor]
) -> Tensor:
    """Logarithm of the integral of a density, smooth between some points.

    Args:
        log_density: logarithm of it, at points `(nodes, *batch)`.
        ends: of the smooth pieces, ascending, `(*batch,)`.

    Returns:
        The logarithm, `(*batch,)`.
    """
    heights = [_nodes(log_density, low, high)[0] for low, high in pairwise(ends)]
    return torch.cat(heights).logsumexp(0)


def _nodes(
    log_density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """What each node adds to the integral, as a logarithm, and the nodes."""
    empty = high <= low
    piece = _Piece(low, high)
    grid = make_grid(lambda t, rest: log_density(piece(t, rest)), low)
    x = piece(grid.t, grid.rest)
    log_width = torch.log(torch.where(empty, 1.0, high - low))
    log_width = torch.where(empty, -torch.inf, log_width)
    return log_density(x) + grid.log_weight + log_width, x


class _Piece(NamedTuple):
    """An interval as a map of the unit interval."""

    low: Tensor
    high: Tensor

    def __call__(self, t: Tensor, rest: Tensor) -> Tensor:
        """Map a point, from the nearer end, to which it keeps its distance."""
        width = self.high - self.low
        return torch.where(t < 0.5, self.low + width * t, self.high - width * rest)
