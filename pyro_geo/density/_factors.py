"""Log-probabilities of single sites under enumeration, and how they hang together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from torch import Tensor

from pyro_geo._compat.pyro import enumerated_axis, symbol_of_axis
from pyro_geo.density.sites import log_prob_of
from pyro_geo.density.structure import batch_dims
from pyro_geo.errors import ShapeError

__all__ = [
    "Factor",
    "Unit",
    "connected",
    "pack",
    "plated_shape",
    "site_log_prob",
    "units_of",
]


class Factor(NamedTuple):
    """Log-probability of one site, for every value of the discrete sites before it.

    Attributes:
        name: of the site.
        frames: of its plates, outermost first.
        symbols: of its plates, likewise.
        full: log-probability with the axes that Pyro gave it.
        log_prob: the same with axes named by symbols, those of length one dropped.
        summed: symbols of the discrete sites among its axes.
        latent: whether it is a continuous latent site.
        observed: whether it is data.
        site: its message in the trace.
    """

    name: str
    frames: tuple[Any, ...]
    symbols: tuple[str, ...]
    full: Tensor
    log_prob: Tensor
    summed: frozenset[str]
    latent: bool
    observed: bool
    site: Mapping[str, Any]

    @property
    def plates(self) -> frozenset[str]:
        """Symbols of its plates as a set."""
        return frozenset(self.symbols)


class Unit(NamedTuple):
    """Data that are independent of all others, given the continuous latents.

    Attributes:
        names: of the observed sites among them.
        frames: of the plates whose entries are one unit each, outermost first.
        factors: log-probabilities of everything that belongs to it.
    """

    names: tuple[str, ...]
    frames: tuple[Any, ...]
    factors: tuple[Factor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its log-likelihood.

        That of the site where each datum is a unit of its own, with axes where Pyro has
        them; elsewhere one axis for each plate.
        """
        if self._joins:
            return tuple(frame.size for frame in self.frames)
        return plated_shape(self.frames)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of its log-likelihood."""
        if self._joins:
            return tuple(frame.name for frame in self.frames)
        return batch_dims(self.names[0], self.shape, self.frames)

    @property
    def _joins(self) -> bool:
        """Whether several data are in one unit."""
        observed = [f for f in self.factors if f.observed]
        return len(observed) > 1 or len(observed[0].frames) > len(self.frames)


def plated_shape(frames: Sequence[Any]) -> tuple[int, ...]:
    """Shape of a tensor with an axis for each plate, where Pyro has it."""
    shape = [1] * max((-frame.dim for frame in frames), default=0)
    for frame in frames:
        shape[frame.dim] = frame.size
    return tuple(shape)


def site_log_prob(name: str, site: Mapping[str, Any], scaled: bool) -> Tensor:
    """Log-probability of a site that may be enumerated.

    Args:
        name: of the site.
        site: its message in a trace.
        scaled: see :class:`~pyro_geo.density._enumeration.Joint`.

    Returns:
        The log-probability, masked.
    """
    log_prob, dim = log_prob_of(name, site), enumerated_axis(site)
    if scaled:
        return scale_and_mask(log_prob, site["scale"], site["mask"])
    if dim is None or site["mask"] is None:
        return scale_and_mask(log_prob, 1.0, site["mask"])
    # Where a discrete site is masked, Pyro sums a one for each of its k values. A
    # probability of 1/k for each keeps that sum from changing the data's likelihood.
    mask = torch.as_tensor(site["mask"], device=log_prob.device)
    return torch.where(mask, log_prob, -math.log(log_prob.shape[dim]))


def pack(name: str, site: Mapping[str, Any], log_prob: Tensor) -> Tensor:
    """Name the axes of a site's log-probability, which all must belong to something.

    Args:
        name: of the site.
        site: its message in a trace.
        log_prob: with the axes that Pyro gave it.

    Returns:
        The same, with axes named by symbols.

    Raises:
        ShapeError: an axis is neither a plate nor a discrete site.
    """
    try:
        return packed.pack(log_prob, symbol_of_axis(site))
    except ValueError as reason:
        raise ShapeError(
            "an axis belongs to no plate, which discrete latent sites need",
            where=f"site {name!r}",
            found=f"log-probabilities of shape {tuple(log_prob.shape)}",
            expected="axes of plates and of enumerated sites only",
            todo="Declare the axis with pyro.plate, or as an event with to_event.",
        ) from reason


def connected(factors: Sequence[Factor]) -> list[list[Factor]]:
    """Group factors that share a discrete site, directly or through others."""
    groups: list[tuple[set[str], list[Factor]]] = []
    for factor in factors:
        symbols, members = set(factor.summed), [factor]
        separate = []
        for group in groups:
            if group[0].isdisjoint(symbols):
                separate.append(group)
            else:  # this factor joins the group to its own
                symbols |= group[0]
                members = group[1] + members
        groups = [*separate, (symbols, members)]
    return [members for _, members in groups]


def units_of(factors: Sequence[Factor]) -> dict[str, Unit]:
    """Split data into units that are independent, given the continuous latents.

    Args:
        factors: of all sites.

    Returns:
        Name to unit, in the order of the model. A unit bears the name of its observed
        site, or of all of them joined by plus signs.
    """
    observed = [f.name for f in factors if f.observed]
    units: dict[str, Unit] = {}
    for group in connected(factors):
        names = tuple(name for name in observed if name in {f.name for f in group})
        if not names:
            continue
        # Entries of a plate are independent if everything in the group is in it.
        common = frozenset.intersection(*[f.plates for f in group])
        frames = [
            frame
            for frame, symbol in zip(group[0].frames, group[0].symbols, strict=True)
            if symbol in common
        ]
        units[names[0]] = Unit(names, tuple(frames), tuple(group))
    return {
        _joined(units[name].names, set(observed)): units[name]
        for name in observed
        if name in units
    }


def _joined(names: Sequence[str], taken: set[str]) -> str:
    """Name a unit by its observed sites, unlike any other site."""
    if len(names) == 1:
        return names[0]
    name = "+".join(names if len(names) < 4 else (names[0], "...", names[-1]))
    while name in taken:
        name += "+"
    return name
