"""Quantiles of a law on the unit interval that is given by its log-density."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from pyro_geo._compat.torch import constants
from pyro_geo.distributions.bounded._quadrature import (
    NODES,
    PANELS,
    Grid,
    Integrand,
    edge,
    make_grid,
)

__all__ = ["quantile"]

_STEPS = 12


def quantile(
    log_density: Integrand, like: Tensor, log_p: Tensor, log_q: Tensor
) -> Tensor:
    """Point below which a given probability lies.

    Args:
        log_density: unnormalised, at `t` and `1 - t`.
        like: a tensor of the shape, type and device of the batch.
        log_p: logarithm of the probability, `(..., *batch)`.
        log_q: logarithm of 1 minus it.

    Returns:
        The point, same shape as `log_p`, twice differentiable in the probability and
        in what the density depends on.
    """
    log_p, log_q = torch.broadcast_tensors(log_p, log_q)
    shape = torch.broadcast_shapes(log_p.shape, like.shape)
    flat = (-1, *like.shape)
    p, q = (torch.exp(x).expand(shape).reshape(flat) for x in (log_p, log_q))
    grid = make_grid(log_density, like)
    law = _Law(log_density, grid, p, q)
    with torch.no_grad():
        u = law.search().detach()
    # Two steps of Newton's method that are differentiated: one would give the first
    # derivative of the solution, two give the second as well.
    for _ in range(2):
        residual, slope = law.at(u)
        u = u - residual / slope
    return grid.place(u)[0].reshape(shape)


class _Law:
    """The distribution function, known at the edges of panels, for given quantiles.

    Args:
        log_density: unnormalised.
        grid: nodes on the unit interval.
        p: probabilities sought, `(points, *batch)`.
        q: 1 minus them.
    """

    def __init__(
        self, log_density: Integrand, grid: Grid, p: Tensor, q: Tensor
    ) -> None:
        self.log_density, self.grid, self.p, self.q = log_density, grid, p, q
        heights = log_density(grid.t, grid.rest) + grid.log_weight
        self.log_total = heights.logsumexp(0)
        masses = torch.exp(heights - self.log_total).to(p.dtype)
        parts = masses.reshape(PANELS, NODES, *masses.shape[1:])
        masses = parts.sum(1)
        ends = masses.cumsum(0)
        panel = (ends[:-1].unsqueeze(1) <= p).sum(0)  # (points, *batch)
        after = masses.flip(0).cumsum(0).flip(0)  # from the panel to the right end
        self.below = ends.gather(0, panel) - masses.gather(0, panel)
        self.above = after.gather(0, panel)
        self.inside = torch.stack([part.gather(0, panel) for part in parts.unbind(1)])
        panel = panel.to(p.dtype)
        self.left, self.right = edge(panel), edge(panel + 1)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the probability is too much at `u`, and its slope there."""
        inner = self.grid.within(self.left, u)
        heights = self.log_density(inner.t, inner.rest) + inner.log_weight
        part = torch.exp(heights - self.log_total).sum(0)
        lower = self.below + part - self.p
        upper = self.q - (self.above - part)
        t, rest, slope = self.grid.place(u)
        slope = torch.exp(self.log_density(t, rest) + slope - self.log_total)
        return torch.where(self.p < 0.5, lower, upper), slope

    def search(self) -> Tensor:
        """Find the quantiles on the polynomials through the nodes of each panel.

        Newton's method, kept inside brackets. No density is evaluated.

        Returns:
            Positions of the rule, `(points, *batch)`.
        """
        table = _integrals(self.p.dtype, self.p.device)
        powers = torch.tensordot(table, self.inside, 1)  # (NODES + 1, points, *batch)
        low, high = -torch.ones_like(self.p), torch.ones_like(self.p)
        target = torch.where(self.p < 0.5, self.p - self.below, self.above - self.q)
        y = torch.nan_to_num(2 * target / powers.sum(0) - 1).clamp(-1.0, 1.0)
        for _ in range(_STEPS):
            part, slope = _polynomial(powers, y)
            excess = part - target
            low = torch.where(excess < 0, y, low)
            high = torch.where(excess > 0, y, high)
            y = y - excess / slope
            y = torch.where((y >= low) & (y <= high), y, 0.5 * (low + high))
        return self.left + (self.right - self.left) * (0.5 + 0.5 * y)


def _polynomial(coefficients: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A polynomial and its derivative, by Horner's rule."""
    value, slope = coefficients[-1], torch.zeros_like(y)
    for coefficient in coefficients[:-1].flip(0):
        slope = slope * y + value
        value = value * y + coefficient
    return value, slope


@lru_cache(maxsize=8)
def _integrals(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients of the integral from -1 to `y`, given what each node adds.

    Through the values at Gauss-Legendre nodes goes a polynomial whose coefficient of
    the Legendre polynomial `P_k` is a sum over the nodes; the integral of
    `(2k + 1) P_k` is `P_{k+1} - P_{k-1}`.

    Returns:
        Coefficients of the powers of `y`, `(NODES + 1, NODES)`.
    """
    import numpy as np
    from numpy.polynomial import legendre

    nodes = legendre.leggauss(NODES)[0]
    table = np.zeros((NODES + 1, NODES))
    for k in range(NODES):
        integral = np.zeros(NODES + 1)
        integral[k + 1] = 0.5
        integral[max(k - 1, 0)] = -0.5 if k else 0.5  # P_{-1} is -1
        at_nodes = legendre.legval(nodes, np.eye(NODES)[k])
        powers = legendre.leg2poly(integral)
        table[: len(powers)] += np.outer(powers, at_nodes)
    with constants():
        return torch.from_numpy(table).to(dtype).to(device)
