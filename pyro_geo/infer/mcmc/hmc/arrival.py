"""Which chains have arrived where the mass is, and which are still searching.

A chain is judged by the mass of the region that it is in, never by its density alone: a
mode `r` times as wide as another of equal mass in `D` dimensions is lower by
`D log(r)` in log-density.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.hmc.fisher import fisher_scale
from pyro_geo.infer.mcmc.hmc.schedule import CYCLE
from pyro_geo.infer.transition import ChainState

__all__ = [
    "Points",
    "ceiling",
    "falling",
    "log_mass",
    "outside",
    "potential_spread",
    "restarted",
    "searching",
]

Points = tuple[Tensor, Tensor, Tensor]
"""Positions and gradients, `(chains, dim)`, and potentials, `(chains,)`."""

_GAP = 10.0  # nats above the usual spread at which a chain is looked at
_LEAST_MASS = 1e-10  # share of the mass below which a region is left
_LEAST_CHAINS = 4  # by which one can be judged
_FEWEST = 8  # one chain in so many must have arrived before others are judged by it


def outside(energies: list[Tensor], dim: int) -> Tensor:
    """Say which chains have a potential far above the lowest ones.

    Args:
        energies: potentials after the transitions of a stage, `(chains,)` each.
        dim: of a position.

    Returns:
        `(chains,)`.
    """
    recent = torch.stack(energies[-CYCLE:]).double()
    here = recent.isfinite()
    if not bool(here.any()):
        return torch.zeros_like(here[0])
    # by the best point, so that one bad transition is no matter
    best = torch.where(here, recent, torch.inf).min(0).values
    return best > ceiling(recent, potential_spread(energies, dim))


def searching(points: list[Points], far: Tensor) -> Tensor:
    """Say which of the chains far outside are in regions of negligible mass.

    That is a mass, by :func:`log_mass`, of less than 1e-10 of the others'; half a nat
    for each dimension is allowed for the error of the estimate. A chain that has not
    moved, at a low density and with steps with which others move, has none.

    Args:
        points: where the chains were after each of the last transitions.
        far: chains to judge, see :func:`outside`, `(chains,)`.

    Returns:
        `(chains,)`; nothing but False where almost no chain has arrived, for then those
        few may be the ones that are wrong.
    """
    none = torch.zeros_like(far)
    if not points or len(far) < _LEAST_CHAINS or not bool(far.any()):
        return none
    mass = log_mass(points)
    # not the largest: one chain in a narrow spike sets no standard
    usual = mass.nan_to_num(-torch.inf).quantile(0.95)
    allowed = 0.5 * points[-1][0].shape[1] - math.log(_LEAST_MASS)
    lost = far & ~(mass >= usual - allowed)
    arrived = int((~lost).sum())
    return lost if arrived >= max(2, len(lost) / _FEWEST) else none


def potential_spread(energies: list[Tensor], dim: int) -> Tensor:
    """Standard deviation of the potential along recent parts of the chains.

    Args:
        energies: potentials after the transitions of a stage, `(chains,)` each.
        dim: of a position.

    Returns:
        The upper quartile over chains, `()`, at least what is usual.
    """
    recent = torch.stack(energies[-CYCLE:]).double()
    # The potential of a normal density is half a chi-square, whose standard deviation
    # is sqrt(dim / 2); others vary more.
    usual = math.sqrt(dim / 2) + dim / 10
    return recent.std(0).nan_to_num(0.0).quantile(0.75).clamp(min=usual)


def ceiling(energies: Tensor, spread: Tensor) -> Tensor:
    """Potential above which a point is far from the lowest ones.

    It is measured from the lowest potentials, so that it holds while most chains are
    still on their way.

    Args:
        energies: potentials of all chains.
        spread: standard deviation of the potential along a chain.

    Returns:
        The potential, `()`.
    """
    # a low quantile, not the minimum: one point in a narrow spike sets no standard
    best = energies[energies.isfinite()].quantile(0.05)
    return best + _GAP + 5 * spread


def log_mass(points: list[Points]) -> Tensor:
    r"""Estimate the mass of the region that each chain is in, from its own points.

    The mass is :math:`\int e^{-U}` over the region. Its logarithm is the entropy there
    minus the mean potential. The entropy is taken of a normal density with the scales
    :math:`(\operatorname{var} q / \operatorname{var} \nabla U)^{1/4}`, which need no
    chain to have crossed the region.

    Args:
        points: where the chains were after each of the last transitions.

    Returns:
        Log-masses up to a constant, `(chains,)`; NaN where a chain has not moved.

    Example:
        >>> scale = torch.tensor([[1.0], [4.0]])  # of two modes of equal mass
        >>> steps = [torch.tensor([[x], [4.0 * x]]) for x in (-1.0, 0.5, 1.5, 0.0)]
        >>> def potential(q):
        ...     return (q / scale).square().sum(1) / 2 + scale[:, 0].log()
        >>> points = [(q, q / scale**2, potential(q)) for q in steps]
        >>> mass = log_mass(points)
        >>> bool((mass[0] - mass[1]).abs() < 1e-4)
        True
    """
    q, grad, potential = (
        torch.stack(column).double() for column in zip(*points, strict=True)
    )
    scale = fisher_scale(q - q.mean(0), grad - grad.mean(0))
    moved = (q != q[:1]).any(-1).any(0)
    mass = scale.log().sum(-1) - potential[-CYCLE:].mean(0)
    return torch.where(moved, mass, torch.nan)


def falling(energies: list[Tensor], dim: int) -> Tensor:
    """Say which chains are on their way down: their potential falls, and by much.

    Args:
        energies: potentials after the transitions of a stage, `(chains,)` each.
        dim: of a position.

    Returns:
        `(chains,)`. The mean of the first third is above that of the last by more than
        means of so few draws differ by where the potential is stationary.
    """
    values = torch.stack(energies).double()
    third = max(1, len(values) // 3)
    drop = values[:third].mean(0) - values[-third:].mean(0)
    return drop > max(5.0, 3 * math.sqrt(dim / 2))


def restarted(
    chains: ChainState, lost: Tensor, arrived: Tensor, uniform: Tensor
) -> ChainState:
    """Start chains again where others are.

    Args:
        chains: where they are.
        lost: which ones to move, `(chains,)`.
        arrived: which ones to move them to, `(chains,)`.
        uniform: numbers to choose the other chains with, `(chains,)`.

    Returns:
        The chains.
    """
    healthy = arrived.nonzero().flatten()
    pick = healthy[(uniform * len(healthy)).long().clamp(max=len(healthy) - 1)]
    return ChainState(
        torch.where(lost[:, None], chains.q[pick], chains.q),
        torch.where(lost, chains.potential[pick], chains.potential),
        torch.where(lost[:, None], chains.grad[pick], chains.grad),
    )
