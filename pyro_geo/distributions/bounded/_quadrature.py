"""One quadrature rule for every law of a radius on a ball.

The integrand over `t = r / radius` in (0, 1) may be singular at both ends (`t^(d-1)`,
`(1 - t^2)^kappa`) and as narrow as a Gaussian in a far larger ball. Therefore
`t` is the double-exponential map of a variable `u`, in which the integrand is smooth
and falls off at both ends, and the range of `t` is first narrowed to where the
integrand is not negligible. Panels of Gauss-Legendre nodes in `u` then give totals and
partial integrals alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._compat.torch import constants

__all__ = ["NODES", "PANELS", "Grid", "Integrand", "edge", "make_grid"]

PANELS = 64
NODES = 12
_LOW, _HIGH = -4.0, 3.2  # beyond, less than 1e-37 of the range at 0 and 1e-16 at 1
# Nats below the peak that are left out. To the right they change no digit of a total;
# to the left quantiles are asked for down to the smallest double.
_RIGHT, _LEFT = 45.0, 700.0

# logarithm of the integrand at t, given t and 1 - t, each `(nodes, *batch)`
Integrand = Callable[[Tensor, Tensor], Tensor]


class Grid(NamedTuple):
    """Nodes on the unit interval, for each entry of a batch.

    Args:
        t: nodes, `(PANELS * NODES, *batch)`.
        rest: `1 - t`, exact near 1.
        log_weight: logarithms of the weights.
        low: least `t` of the range.
        beyond: 1 minus the largest `t` of the range.
    """

    t: Tensor
    rest: Tensor
    log_weight: Tensor
    low: Tensor
    beyond: Tensor

    def place(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map positions `u` of the rule to `t`, `1 - t` and the log of the slope."""
        t, rest, slope = _map(u)
        width = 1 - self.low - self.beyond
        slope = slope + torch.log(width)
        return self.low + width * t, self.beyond + width * rest, slope

    def within(self, left: Tensor, right: Tensor) -> Grid:
        """Nodes of one panel from `left` to `right`, two positions of the rule."""
        panel = _panel(left.dtype, left.device)
        shape = (-1, *[1] * left.dim())
        nodes, weights = (part.reshape(shape) for part in panel)
        t, rest, slope = self.place(left + (right - left) * nodes)
        log_weight = slope + torch.log(weights * (right - left))
        return Grid(t, rest, log_weight, self.low, self.beyond)


def edge(panel: Tensor) -> Tensor:
    """Left end of a panel, as a position of the rule."""
    return _LOW + panel * ((_HIGH - _LOW) / PANELS)


def _map(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The double-exponential map: `t`, `1 - t` and the logarithm of the slope."""
    turn = math.pi * torch.sinh(u)
    t, rest = torch.sigmoid(turn), torch.sigmoid(-turn)
    slope = torch.log(t) + torch.log(rest) + math.log(math.pi)
    return t, rest, slope + torch.log(torch.cosh(u))


@lru_cache(maxsize=8)
def _panel(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on the unit interval."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # a constant: no trace and no mode of the first caller may see it
    with constants():
        parts = torch.from_numpy(0.5 + 0.5 * nodes), torch.from_numpy(0.5 * weights)
        return parts[0].to(dtype).to(device), parts[1].to(dtype).to(device)


@lru_cache(maxsize=8)
def _rule(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`t`, `1 - t` and the logarithms of the weights on the unit interval."""
    nodes, weights = _panel(torch.float64, device)
    with constants():
        width = (_HIGH - _LOW) / PANELS
        start = torch.linspace(_LOW, _HIGH - width, PANELS, dtype=torch.float64)
        u = start.to(device)[:, None] + width * nodes
        t, rest, slope = _map(u)
        log_weight = slope + torch.log(width * weights)
        parts = [part.reshape(-1).to(dtype) for part in (t, rest, log_weight)]
    return parts[0], parts[1], parts[2]


def make_grid(integrand: Integrand, like: Tensor) -> Grid:
    """Place the nodes where an integrand is not negligible.

    Args:
        integrand: logarithm of it; derivatives are not taken.
        like: a tensor of the shape, type and device of the batch.

    Returns:
        The grid, without derivatives.
    """
    low = beyond = torch.zeros_like(like).detach()
    # A narrow peak in a wide ball is found in steps: each shrinks the range to a few
    # nodes around what the one before has seen.
    for _ in range(2):
        grid = _spread(low, beyond)
        height = (integrand(grid.t, grid.rest) + grid.log_weight).detach()
        height = torch.where(torch.isnan(height), -torch.inf, height)
        peak = height.amax(0)
        left, right = _widened(height > peak - _LEFT), _widened(height > peak - _RIGHT)
        first = torch.where(left, grid.t, torch.inf).amin(0)
        last = torch.where(right, grid.rest, torch.inf).amin(0)
        # the outermost nodes stand for the ends themselves
        low = torch.where(left[0], low, first)
        beyond = torch.where(right[-1], beyond, last)
    return _spread(low, beyond)


def _widened(seen: Tensor) -> Tensor:
    """Add the neighbours on both sides."""
    none = torch.zeros_like(seen[:1])
    left, right = torch.cat([seen[1:], none]), torch.cat([none, seen[:-1]])
    return seen | left | right


def _spread(low: Tensor, beyond: Tensor) -> Grid:
    shape = (-1, *[1] * low.dim())
    rule = _rule(low.dtype, low.device)
    t, rest, log_weight = (part.reshape(shape) for part in rule)
    width = 1 - low - beyond
    log_weight = log_weight + torch.log(width)
    return Grid(low + width * t, beyond + width * rest, log_weight, low, beyond)
