"""Symmetries of a density: looked for among moves, and verified on the density."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.infer.modes._climb import Climber
from pyro_geo.infer.modes._moves import Move, axes_of, flips, swaps
from pyro_geo.ops.lanes import column

__all__ = ["Symmetries", "find_symmetries", "unchanged"]

_MOST = 8_000  # evaluations spent on guesses
_TELLING = 1e-3  # difference of a coordinate that tells two copies apart


class Symmetries:
    """Moves that leave a density unchanged, and what they generate.

    Args:
        moves: verified ones.
    """

    def __init__(self, moves: list[Move]) -> None:
        self.moves = moves

    def __len__(self) -> int:
        """Number of moves."""
        return len(self.moves)

    @property
    def exact(self) -> bool:
        """Whether a mode goes to a mode: not in coordinates of a simplex."""
        return not any(move.simplices for move in self.moves)

    def canonical(self, q: Tensor) -> Tensor:
        """Bring each position to one of its images, the same for most of them.

        Moves are applied as long as they make the first coordinate that they change
        smaller.

        Args:
            q: positions, `(n, dim)`.

        Returns:
            Positions, `(n, dim)`.
        """
        for _ in range(64):
            before = q
            for move in self.moves:
                moved = move(q)
                # differences that polishing leaves must not decide
                differs = (moved - q).abs() > _TELLING * (1.0 + q.abs())
                first = column(differs.long().argmax(-1))
                smaller = moved.gather(-1, first) < q.gather(-1, first)
                q = torch.where(smaller & differs.any(-1, keepdim=True), moved, q)
            if torch.equal(before, q):
                break
        return q

    def images(self, q: Tensor, most: int, size: float = 1e-6) -> Tensor:
        """List the images of one position under all that the moves generate.

        Args:
            q: the position, `(dim,)`.
            most: how many at most.
            size: largest difference in a coordinate of positions that are one.

        Returns:
            Different positions, the first one itself, `(images, dim)`.
        """
        found = q[None]
        front = found
        while len(front) and len(found) < most:
            moved = torch.cat([move(front) for move in self.moves])
            fresh = []
            for row in moved[moved.isfinite().all(-1)]:
                pool = torch.cat([found, *fresh])
                gap = (pool - row).abs() / (size + 1e-6 * row.abs())
                if bool((gap.amax(-1) > 1.0).all()):
                    fresh.append(row[None])
                if len(found) + len(fresh) >= most:
                    break
            front = torch.cat(fresh) if fresh else q.new_empty(0, len(q))
            found = torch.cat([found, front])
        return found


def find_symmetries(climber: Climber, points: Tensor) -> Symmetries:
    """Look for exchanges and changes of sign that leave a density unchanged.

    Args:
        climber: of the density.
        points: where to compare, most of them close to modes, `(points, dim)`.

    Returns:
        Those that hold at all points.
    """
    layout = climber.target.layout
    axes = axes_of(layout)
    found: list[Move] = []
    before = climber.evaluations
    # signs are one group: two of them in a row are their union
    signs = [move for moves in flips(layout, axes) for move in moves]
    guesses = [signs, *swaps(layout, axes)]
    # small sets of coordinates first: one that contains a symmetry brings nothing new
    waiting = [
        (len(move.coordinates), group, move)
        for group, moves in enumerate(guesses)
        for move in moves
    ]
    known: dict[int, list[frozenset[object]]] = {}
    seen: set[tuple[object, ...]] = set()
    for size in sorted({w[0] for w in waiting}):
        batch = []
        for own, group, move in waiting:
            if own != size or any(s < move.coordinates for s in known.get(group, ())):
                continue
            key = (
                *move.permutation.tolist(),
                *move.sign.tolist(),
                *((site.name, i, j) for site, i, j in move.simplices),
            )
            if key not in seen:
                seen.add(key)
                batch.append((group, move))
        if climber.evaluations - before > _MOST:
            break
        good = unchanged(climber, [move for _, move in batch], points)
        for (group, move), holds in zip(batch, good, strict=True):
            if holds:
                known.setdefault(group, []).append(move.coordinates)
                found.append(move)
    return Symmetries(found)


def unchanged(
    climber: Climber, moves: list[Move], points: Tensor, tol: float = 1e-9
) -> list[bool]:
    """Say which moves leave the density of the constrained values unchanged.

    Args:
        climber: of the density.
        moves: to be verified.
        points: where, `(points, dim)`.
        tol: difference that counts as none, beside rounding, in nats.

    Returns:
        Whether each one does.
    """
    if not moves:
        return []
    good = torch.ones(len(moves), dtype=torch.bool, device=points.device)
    # one point rules most of them out
    for rows in (points[:1], points[1:]):
        left = good.nonzero().flatten().tolist()
        if not left or not len(rows):
            break
        moved = torch.cat([moves[i](rows) for i in left])
        there = _density(climber, moved, moves).reshape(len(left), -1)
        here = _density(climber, rows, moves)
        eps = torch.finfo(points.dtype).eps
        room = tol + 1e4 * eps * (1.0 + here.abs())
        good[left] = ((there - here).abs() <= room).all(-1)
    return good.tolist()


def _density(climber: Climber, q: Tensor, moves: list[Move]) -> Tensor:
    """Log-density of constrained values, where a simplex is among the sites moved.

    The Jacobian of a simplex depends on the order of its entries; that of all other
    moves does not.

    Returns:
        Log-densities, `(n,)`.
    """
    value = climber.log_prob(torch.where(q.isfinite(), q, 0.0))
    value = torch.where(q.isfinite().all(-1), value, torch.nan)
    sites = {site.name: site for move in moves for site, _, _ in move.simplices}
    for site in sites.values():
        own = q[:, site.slice].reshape(len(q), *site.shape)
        constrained = site.transform(own)
        jacobian = site.transform.log_abs_det_jacobian(own, constrained)
        assert isinstance(jacobian, Tensor)
        value = value - jacobian.reshape(len(q), -1).sum(-1)
    return value
