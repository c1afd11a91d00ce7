"""Ridges and densities without an end: what is said of them, and how it is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Layout
from pyro_geo.infer.modes._basins import Basins
from pyro_geo.infer.modes._climb import Climber, heights_agree

__all__ = ["Open", "join_ridges", "look_at_loose_ends", "sites_of"]

_BETWEEN = 0.95  # share of an edge's length that its polished middle may be away
_LONGER = 60  # Newton steps for ends that did not converge
_MARGIN = 10.0  # nats below the best mode up to which such an end is looked at
_DOUBLINGS = 6  # to 16 units of unconstrained space


class Open(NamedTuple):
    """An end of a climb where the log-density still rises.

    Attributes:
        q: where, `(dim,)`.
        log_prob: there.
        sites: that run away, in words.
        endless: whether it rose without end as far as it was followed.
    """

    q: Tensor
    log_prob: float
    sites: str
    endless: bool


def join_ridges(climber: Climber, basins: Basins) -> list[int]:
    """Make points of one ridge one mode.

    Points of a ridge are flat along it and equally high. Two neighbours are joined
    where the point half way climbs to between them, at the same height.

    Args:
        climber: of the density.
        basins: the modes; those joined to another one are left out.

    Returns:
        How many points each mode stands for, `(modes,)`.
    """
    flat = (basins.flat > 0).nonzero().flatten()
    size = [1] * len(basins)
    if len(flat) < 2:
        return size
    q, height = basins.q[flat], basins.log_prob[flat]
    edges = _tree(torch.cdist(q, q))
    level = heights_agree(height[edges[:, 0]], height[edges[:, 1]])
    edges = edges[level]
    if not len(edges):
        return size
    first, second = q[edges[:, 0]], q[edges[:, 1]]
    middle = climber.polish(0.5 * (first + second))
    length = (first - second).norm(dim=-1)
    away = torch.maximum(
        (middle.q - first).norm(dim=-1), (middle.q - second).norm(dim=-1)
    )
    joined = (away < _BETWEEN * length) & heights_agree(
        middle.log_prob, height[edges[:, 0]]
    )
    owner = list(range(len(basins)))

    def root(k: int) -> int:
        while owner[k] != k:
            k = owner[k]
        return k

    for a, b in flat[edges[joined]].tolist():
        low, high = sorted((root(a), root(b)))
        owner[high] = low
    counts, extra = basins.counts.tolist(), basins.extra.tolist()
    for k in range(len(basins)):
        r = root(k)
        if r != k:
            size[r] += 1
            counts[r] += counts[k]
            extra[r] += extra[k]
    roots = [k for k in range(len(basins)) if root(k) == k]
    basins.counts, basins.extra = torch.tensor(counts), torch.tensor(extra)
    basins.keep(torch.tensor(roots, device=basins.q.device))
    return [size[k] for k in roots]


def _tree(gap: Tensor) -> Tensor:
    """Edges of the shortest tree that joins all points, `(points - 1, 2)`."""
    n = len(gap)
    near, parent = gap[0].clone(), [0] * n
    near[0] = torch.inf
    waiting, edges = set(range(1, n)), []
    while waiting:
        k = min(waiting, key=lambda i: float(near[i]))
        waiting.remove(k)
        edges.append((parent[k], k))
        for i in waiting:
            if gap[k, i] < near[i]:
                near[i], parent[i] = gap[k, i], k
    return torch.tensor(edges, device=gap.device)


def look_at_loose_ends(climber: Climber, basins: Basins) -> Open | None:
    """Climb on from the highest ends that did not converge.

    Args:
        climber: of the density.
        basins: of modes; those that are found are added.

    Returns:
        The highest end that still rises, if it is not far below the modes.
    """
    loose = basins.loose
    best = float(basins.log_prob.max()) if len(basins) else -torch.inf
    loose = loose.take(loose.log_prob > best - _MARGIN)
    if not len(loose.q):
        return None
    ends = climber.polish(loose.q, max_steps=_LONGER)
    basins.add(ends.take(ends.converged), independent=False)
    rising = (~ends.converged & ends.log_prob.isfinite()).nonzero().flatten()
    if not len(rising):
        return None
    i = int(rising[ends.log_prob[rising].argmax()])
    q, height = ends.q[i], ends.log_prob[i]
    ways = _ways(climber, q, q - loose.q[i])
    # a climb may have run so far away that a step of one is below rounding
    unit = (torch.finfo(q.dtype).eps ** 0.5 * q.abs().max()).clamp(min=1.0)
    steps = unit * 0.5 * 2.0 ** torch.arange(_DOUBLINGS).to(q)
    along = q + steps[:, None] * ways[:, None]
    gains = climber.log_prob(along.flatten(0, 1)).reshape(len(ways), -1) - height
    best = int(gains[:, 0].argmax())
    rises = torch.cat([torch.zeros_like(gains[best, :1]), gains[best]]).diff()
    endless = bool((rises > 0).all()) and float(gains[best, -1]) > 1.0
    way = ways[best].abs()
    sites = sites_of(climber.target.layout, way > 0.1 * way.max())
    return Open(q, float(height), sites, endless)


def _ways(climber: Climber, q: Tensor, moved: Tensor) -> Tensor:
    """Directions in which the log-density may rise on, unit vectors, `(n, dim)`."""
    _, vectors = climber.hessian(q[None])
    axes = torch.cat([vectors[0].mT, torch.eye(len(q)).to(q)])
    length = moved.norm()
    last = (moved / length)[None] if length > 0 else axes[:0]
    return torch.cat([axes, -axes, last])


def sites_of(layout: Layout, chosen: Tensor) -> str:
    """Name the sites of some coordinates."""
    names = [repr(n) for n, s in layout.sites.items() if bool(chosen[s.slice].any())]
    return ", ".join(names)
