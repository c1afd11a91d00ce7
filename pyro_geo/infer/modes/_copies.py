"""Copies of modes: those that the symmetries imply, and those seen in pairs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pyro_geo.infer.modes._basins import Basins
from pyro_geo.infer.modes._climb import Climber, heights_agree
from pyro_geo.infer.modes._moves import Move, between
from pyro_geo.infer.modes._search import Search
from pyro_geo.infer.modes._symmetry import unchanged

__all__ = ["Orbits", "complete", "relate"]

_PAIRS = 8  # modes whose pairs are compared
_WHERE = 32  # modes at which a mirror or a shift is verified
_SAME = 0.1  # standard deviations between an image and a mode found
_SEEN = 1e-5  # nats: a mirror between two polished modes is no more accurate


class Orbits:
    """Modes with the copies that symmetries imply.

    Args:
        q: all modes, `(modes, dim)`.
        owner: number of the mode that each is a copy of, `(modes,)`.
        more: modes that have more copies than were listed.
    """

    def __init__(self, q: Tensor, owner: Tensor, more: list[int]) -> None:
        self.q, self.owner, self.more = q, owner, more


def complete(search: Search, most: int) -> Orbits:
    """List the copies of all modes of a search.

    Args:
        search: that has ended.
        most: copies of one mode at most.

    Returns:
        The modes with their copies; the first of an orbit is the mode found.
    """
    basins = search.basins
    every = torch.arange(len(basins), device=basins.q.device)
    taken = torch.zeros(len(basins), dtype=torch.bool, device=basins.q.device)
    if not len(search.symmetries):
        return Orbits(basins.q, every, [])
    rows, owner, more = [], [], []
    for k in range(len(basins)):
        if bool(basins.flat[k] > 0):  # copies of a point of a ridge are often on it
            rows.append(basins.q[k : k + 1])
            owner.append(k)
            continue
        if bool(taken[k]):  # an image of an earlier mode: its own would be the same
            continue
        width = basins.values[k].clamp(min=1e-8).rsqrt().min()
        images = search.symmetries.images(basins.q[k], most, 1e-3 * float(width))
        # an image of this mode that is a mode found too, at the same height
        same = basins.distance(images).amin(0) < _SAME
        taken |= same & heights_agree(basins.log_prob, basins.log_prob[k])
        if len(images) >= most:
            more.append(k)
        rows.append(images)
        owner += [k] * len(images)
    q = torch.cat(rows)
    if not search.symmetries.exact:
        # coordinates of a simplex bend: a copy is close to a mode, and climbs to it
        q = torch.where(_is_first(owner, q), q, search.climber.polish(q).q)
    return Orbits(q, torch.tensor(owner, device=q.device), more)


def _is_first(owner: list[int], q: Tensor) -> Tensor:
    first = [i == 0 or owner[i] != owner[i - 1] for i in range(len(owner))]
    return torch.tensor(first, device=q.device)[:, None]


def relate(
    climber: Climber, basins: Basins, rows: Tensor, points: Tensor
) -> tuple[list[Move], list[tuple[int, int]]]:
    """Look for mirrors and shifts that carry one mode to another.

    Args:
        climber: of the density.
        basins: the modes.
        rows: those of them that are no copies.
        points: where a move must leave the density as it is.

    Returns:
        The moves, and the pairs of modes that they relate.
    """
    order = rows[basins.log_prob[rows].argsort(descending=True)][:_PAIRS].tolist()
    moves: list[Move] = []
    pairs: list[tuple[int, int]] = []
    points = torch.cat([points, basins.q[rows][:_WHERE], 3.0 * points])
    points = points[climber.log_prob(points).isfinite()]
    for i, j in itertools.combinations(sorted(order), 2):
        if bool(heights_agree(basins.log_prob[i], basins.log_prob[j])):
            found = between(climber.target.layout, basins.q[i], basins.q[j], 1e-4)
            moves += found
            pairs += [(i, j)] * len(found)
    good = unchanged(climber, moves, points, _SEEN)
    kept = [k for k, holds in enumerate(good) if holds]
    joined = [pairs[k] for k in kept]
    # a move that relates two of the highest may relate others too
    for k in kept:
        near, image = basins.distance(moves[k](basins.q[rows])).min(-1)
        level = heights_agree(basins.log_prob[rows], basins.log_prob[image])
        related = (near < _SAME) & level
        found = zip(rows[related].tolist(), image[related].tolist(), strict=True)
        joined += [pair for pair in found if pair[0] != pair[1]]
    named: dict[object, Move] = {}
    for k in kept:  # one of each kind for the same coordinates: the shortest
        key = (moves[k].kind, moves[k].coordinates)
        if key not in named or _length(moves[k]) < _length(named[key]):
            named[key] = moves[k]
    return list(named.values()), joined


def _length(move: Move) -> float:
    assert move.shift is not None
    return float(move.shift.norm())
