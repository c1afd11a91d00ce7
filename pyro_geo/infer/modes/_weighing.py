"""From basins to a set of modes: copies, masses, what is left out, the order."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import ModelError
from pyro_geo.geometry.laplace import Laplace, laplace
from pyro_geo.geometry.matrices import Spectral
from pyro_geo.infer.modes._basins import distances, is_flat, spectral
from pyro_geo.infer.modes._copies import Orbits, complete, relate
from pyro_geo.infer.modes._masses import log_masses
from pyro_geo.infer.modes._moves import Move, in_words
from pyro_geo.infer.modes._notes import Facts, write_notes
from pyro_geo.infer.modes._ridges import Open, join_ridges, look_at_loose_ends
from pyro_geo.infer.modes._search import Search
from pyro_geo.infer.modes.mode_set import ModeSet

__all__ = ["weigh"]

# Tail of weights up to which their mean exists. From 0.7 on it is uncertain, which a
# note says; but Laplace masses beside masses by draws would be biased against them.
_USABLE = 1.0
_KEPT = 14.0  # nats of Laplace mass below the heaviest that are weighed at all
_VISITED = 1.0  # standard deviations from a mode of a rough end that belongs to it


class _Weighed(NamedTuple):
    """Masses of all modes and copies."""

    normal: Laplace
    log_laplace: Tensor
    log_mass: Tensor
    khat: Tensor


def weigh(
    search: Search,
    *,
    min_weight: float,
    max_modes: int,
    num_draws: int,
    dtype: torch.dtype,
    seed: int,
) -> ModeSet:
    """Weigh the modes that a search has found, and put them in order."""
    basins, climber = search.basins, search.climber
    chance, settled = search.chance(), search.settled
    rising = look_at_loose_ends(climber, basins)
    if not len(basins):
        _no_mode(search, rising)
    ridge = join_ridges(climber, basins)
    mass = basins.log_laplace
    order = mass.argsort(descending=True)
    order = order[mass[order] > mass.max() - _KEPT][:max_modes]
    basins.keep(order)
    ridge = [ridge[i] for i in order.tolist()]
    polished = climber.polish(basins.q, tolerance=1e-16)
    better = polished.converged & (polished.log_prob >= basins.log_prob - 1e-9)
    basins.q = torch.where(better[:, None], polished.q, basins.q)
    orbits = complete(search, max_modes)
    moves, pairs = relate(climber, basins, orbits.owner.unique(), search.points)
    weighed = _weigh(search, orbits, num_draws)
    owner = _with_pairs(orbits.owner, pairs)
    weighed = weighed._replace(log_mass=_shared(weighed.log_mass, owner))
    order = _order(weighed.log_mass, owner, min_weight, max_modes)
    return _mode_set(
        search,
        orbits,
        weighed,
        owner,
        order,
        moves,
        ridge,
        rising,
        (chance, settled),
        dtype,
        seed,
    )


def _no_mode(search: Search, rising: Open | None) -> None:
    where = "the search" if rising is None else f"sites {rising.sites}"
    level = "no climb converged"
    if rising is not None:
        level = f"log-density {rising.log_prob:.6g}, still rising"
    raise ModelError(
        "no mode was found",
        where=where,
        found=f"{level} after {search.climbs} climbs",
        expected="a density with a highest point",
        todo="Give every site a proper prior, or bound it away from where the density "
        "rises without end.",
    )


def _with_pairs(owner: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Take modes that a mirror relates for copies too."""
    joined = owner.clone()
    for i, j in sorted(pairs):
        first, second = sorted((int(joined[owner == i][0]), int(joined[owner == j][0])))
        joined = torch.where(joined == second, first, joined)
    return joined


def _weigh(search: Search, orbits: Orbits, num_draws: int) -> _Weighed:
    """Weigh all modes; the draws are made around the first of each orbit."""
    basins, climber, dim = search.basins, search.climber, search.basins.q.shape[1]
    normal = laplace_at(search, orbits.q)
    height = basins.log_prob[orbits.owner]
    log_laplace = height + 0.5 * dim * math.log(2 * math.pi) + 0.5 * normal.log_det()
    khat = torch.full_like(log_laplace, torch.nan)
    if not num_draws:
        return _Weighed(normal, log_laplace, log_laplace, khat)
    # the first of each orbit is the mode that was found
    kinds, number = orbits.owner.unique(return_inverse=True)
    first = (number[:, None] == torch.arange(len(kinds)).to(number)).long().argmax(0)
    drawn = log_masses(
        climber,
        orbits.q,
        *spectral(normal),
        log_laplace,
        first,
        num_draws,
        search.noise,
    )
    ridges = basins.flat[kinds] > 0
    usable = (drawn.khat < _USABLE) & drawn.log_mass.isfinite() & ~ridges
    log_mass = torch.where(usable, drawn.log_mass, log_laplace[first])
    return _Weighed(normal, log_laplace, log_mass[number], drawn.khat[number])


def laplace_at(search: Search, q: Tensor) -> Laplace:
    """Normal densities at some modes, by as many products at once as before."""
    n, dim = q.shape
    lanes = search.climber.lanes
    fill = max(0, -(-lanes // dim) - n)
    rows = torch.cat([q, q[:1].expand(fill, dim)])
    found = laplace(search.climber.target, rows, curvature="hessian", flat=1.0)
    return _rows(found, torch.arange(n, device=q.device))


def _rows(normal: Laplace, rows: Tensor) -> Laplace:
    parts = spectral(normal)
    return Laplace(
        normal.mean[rows],
        Spectral(parts.values[rows], parts.vectors[rows]),
        normal.smallest[rows],
        normal.num_repaired[rows],
    )


def _shared(log_mass: Tensor, owner: Tensor) -> Tensor:
    """Give all copies of a mode the mean of their masses."""
    same = owner[:, None] == owner
    total = torch.where(same, log_mass, -torch.inf).logsumexp(-1)
    return total - same.sum(-1).log()


def _order(
    log_mass: Tensor, owner: Tensor, min_weight: float, max_modes: int
) -> Tensor:
    """Heaviest first, copies beside each other, light ones left out."""
    heavy = log_mass >= log_mass.max() + math.log(max(min_weight, 1e-300))
    rows = heavy.nonzero().flatten()
    # sorted by mass and then by orbit: both sorts keep the order of equals
    rows = rows[owner[rows].argsort(stable=True)]
    levels = (log_mass[rows] * 1e9).round()
    return rows[levels.argsort(descending=True, stable=True)][:max_modes]


def _mode_set(
    search: Search,
    orbits: Orbits,
    weighed: _Weighed,
    owner: Tensor,
    order: Tensor,
    moves: list[Move],
    ridge: list[int],
    rising: Open | None,
    ending: tuple[float, bool],
    dtype: torch.dtype,
    seed: int,
) -> ModeSet:
    basins, climber = search.basins, search.climber
    own = owner[order]
    # the number of the first mode of the same orbit
    copies = (own[:, None] == own).long().argmax(-1)
    normal = _rows(weighed.normal, order)
    counts = _counts(search.visited, orbits.q[order], normal)
    source = orbits.owner[order]
    words = in_words([*search.symmetries.moves, *moves])
    facts = Facts(
        log_laplace=weighed.log_laplace[order],
        log_mass=weighed.log_mass[order],
        khat=weighed.khat[order],
        flat=basins.flat[source],
        ridge=[ridge[i] for i in source.tolist()],
        counts=counts,
        copies=copies,
        normal=normal,
        left_out=len(orbits.q) - len(order),
        more=[k for k, i in enumerate(source.tolist()) if i in orbits.more],
        moves=moves,
        rising=rising,
        chance=ending[0],
        settled=ending[1],
    )
    return ModeSet(
        q=orbits.q[order],
        log_prob=basins.log_prob[source],
        log_masses=weighed.log_mass[order],
        log_laplace=weighed.log_laplace[order],
        pareto_k=weighed.khat[order],
        laplace=normal,
        counts=counts,
        converged=torch.ones(len(order), dtype=torch.bool),
        flat=is_flat(basins.values[source]).sum(-1),
        copies=copies,
        symmetries=tuple(words),
        layout=climber.target.layout,
        searched=search.facts(ending[0]) | {"seed": seed},
        history=search.history,
        notes=tuple(write_notes(search, facts)),
        dtype=dtype,
    )


def _counts(visited: Tensor, q: Tensor, normal: Laplace) -> Tensor:
    """Count the climbs that ended at each mode."""
    counts = torch.zeros(len(q), dtype=torch.long)
    if not len(visited):
        return counts
    values, vectors = spectral(normal)
    near, best = distances(visited, q, values, vectors).min(-1)
    found = best[near < _VISITED]
    return torch.bincount(found.cpu(), minlength=len(q))
