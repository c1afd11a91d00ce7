"""The modes known so far, and which climbs ended in which."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.geometry.laplace import Laplace
from pyro_geo.geometry.matrices import Spectral
from pyro_geo.infer.modes._climb import Climber, Ends, distinct, heights_agree

__all__ = ["Basins", "distances", "is_flat", "spectral"]

_SAME = 0.05  # distance of two polished ends of one mode, in standard deviations
_FLAT = 1e-7  # share of the largest curvature below which a direction is flat
_WIDEST = 1e5  # standard deviation of a direction that counts as flat


class Basins:
    """Modes with their curvature, and the number of climbs that ended in each.

    Args:
        climber: of the density.
        merge_distance: modes closer than this are one, in standard deviations of the
            Laplace density of either.
        noise: randomness of the directions in which saddles are left.

    Attributes:
        q: the modes, `(modes, dim)`.
        log_prob: log-density there, `(modes,)`.
        values: eigenvalues of the Hessians, `(modes, dim)`.
        vectors: eigenvectors, `(modes, dim, dim)`.
        counts: climbs from independent starts that ended there, `(modes,)`.
        extra: climbs from other starts that did, `(modes,)`.
        lost: climbs that ended nowhere, by reason.
        loose: ends that did not converge, the highest ones.
    """

    def __init__(
        self, climber: Climber, merge_distance: float, noise: torch.Generator
    ) -> None:
        target = climber.target
        kind = {"dtype": target.dtype, "device": target.device}
        dim = target.dim
        self.climber, self.merge_distance, self._noise = climber, merge_distance, noise
        self.q = torch.empty(0, dim, **kind)
        self.log_prob = torch.empty(0, **kind)
        self.values = torch.empty(0, dim, **kind)
        self.vectors = torch.empty(0, dim, dim, **kind)
        self.counts = torch.zeros(0, dtype=torch.long)
        self.extra = torch.zeros(0, dtype=torch.long)
        self.lost = {"saddle": 0, "not converged": 0, "not finite": 0}
        self.loose = Ends(self.q, self.log_prob, self.log_prob > 0)

    def __len__(self) -> int:
        """Number of modes."""
        return len(self.q)

    @property
    def flat(self) -> Tensor:
        """Number of flat directions of each mode, `(modes,)`."""
        return is_flat(self.values).sum(-1)

    @property
    def log_laplace(self) -> Tensor:
        """Logarithm of each mode's mass up to a constant; flat directions count 0."""
        flat = is_flat(self.values)
        logs = torch.where(flat, 0.0, self.values.clamp(min=1e-300).log())
        return self.log_prob - 0.5 * logs.sum(-1)

    def add(self, ends: Ends, *, independent: bool) -> int:
        """Sort ends of climbs into modes, new ones where they are in none.

        Args:
            ends: of climbs.
            independent: whether the starts knew nothing of the modes.

        Returns:
            How many modes are new.
        """
        finite = ends.log_prob.isfinite() & ends.q.isfinite().all(-1)
        self.lost["not finite"] += int((~finite).sum())
        loose = finite & ~ends.converged
        self.lost["not converged"] += int(loose.sum())
        self._keep_loose(ends.take(loose))
        ends = ends.take(finite & ends.converged)
        known = self._match(ends)
        self._count(known[known >= 0], independent)
        ends = ends.take(known < 0)
        before = len(self)
        if len(ends.q):
            self._add_new(ends, independent)
        return len(self) - before

    def _keep_loose(self, ends: Ends) -> None:
        joined = Ends(*(torch.cat(pair) for pair in zip(self.loose, ends, strict=True)))
        best = joined.log_prob.argsort(descending=True)[:16]
        self.loose = joined.take(best)

    def _match(self, ends: Ends) -> Tensor:
        """The mode of each end, -1 where there is none yet, `(ends,)`."""
        if not len(self) or not len(ends.q):
            return torch.full((len(ends.q),), -1)
        near, best = self.distance(ends.q).min(-1)
        level = heights_agree(ends.log_prob, self.log_prob[best])
        return torch.where((near < _SAME) & level, best, -1)

    def distance(self, q: Tensor) -> Tensor:
        """Distance of positions from all modes under their Hessians, `(n, modes)`."""
        return distances(q, self.q, self.values, self.vectors)

    def _count(self, modes: Tensor, independent: bool) -> None:
        found = torch.bincount(modes.cpu(), minlength=len(self))
        if independent:
            self.counts = self.counts + found
        else:
            self.extra = self.extra + found

    def _add_new(self, ends: Ends, independent: bool) -> None:
        # many ends of one mode: look at the curvature of one of them alone
        first, owner = distinct(ends, 1e-4)
        values, vectors = self.climber.hessian(ends.q[first])
        left = self.climber.leave(ends.take(first), values, self._noise)
        moved = (left.q != ends.q[first]).any(-1)
        if bool(moved.any()):
            values, vectors = self.climber.hessian(left.q)
        rising = values[:, 0] < -1e-6 * values.abs().amax(-1)
        good = left.converged & left.log_prob.isfinite() & ~rising
        weight = torch.bincount(owner.cpu(), minlength=len(first))
        self.lost["saddle"] += int(weight[~good.cpu()].sum())
        order = left.log_prob.argsort(descending=True).tolist()
        for i in order:
            if not bool(good[i]):
                continue
            k = self._place(left.q[i], left.log_prob[i], values[i], vectors[i])
            self._count(torch.full((int(weight[i]),), k), independent)

    def _place(
        self, q: Tensor, log_prob: Tensor, values: Tensor, vectors: Tensor
    ) -> int:
        """Put one end into a mode under both Hessians, or make it a new one."""
        if len(self):
            own = distances(self.q, q[None], values[None], vectors[None])[:, 0]
            far = torch.maximum(own, self.distance(q[None])[0])
            near, k = far.min(-1)
            if float(near) < self.merge_distance:
                return self._higher(int(k), q, log_prob, values, vectors)
        self.q = torch.cat([self.q, q[None]])
        self.log_prob = torch.cat([self.log_prob, log_prob[None]])
        self.values = torch.cat([self.values, values[None]])
        self.vectors = torch.cat([self.vectors, vectors[None]])
        zero = torch.zeros(1, dtype=torch.long)
        self.counts = torch.cat([self.counts, zero])
        self.extra = torch.cat([self.extra, zero])
        return len(self) - 1

    def _higher(
        self, k: int, q: Tensor, log_prob: Tensor, values: Tensor, vectors: Tensor
    ) -> int:
        """Keep the higher of two points that are one mode."""
        if log_prob > self.log_prob[k]:
            self.q[k], self.log_prob[k] = q, log_prob
            self.values[k], self.vectors[k] = values, vectors
        return k

    def keep(self, rows: Tensor) -> None:
        """Keep some modes, in the order given."""
        for name in ("q", "log_prob", "values", "vectors"):
            setattr(self, name, getattr(self, name)[rows])
        self.counts, self.extra = self.counts[rows.cpu()], self.extra[rows.cpu()]


def is_flat(values: Tensor) -> Tensor:
    """Tell directions that have no curvature, `(modes, dim)`."""
    largest = values.abs().amax(-1, keepdim=True)
    return (values <= _FLAT * largest) | (values <= _WIDEST**-2)


def distances(x: Tensor, q: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Distance of points from modes under the modes' Hessians.

    Args:
        x: points, `(n, dim)`.
        q: modes, `(modes, dim)`.
        values: eigenvalues, `(modes, dim)`.
        vectors: eigenvectors, `(modes, dim, dim)`.

    Returns:
        Distances, `(n, modes)`.
    """
    gap = x[:, None] - q  # (n, modes, dim)
    turned = torch.einsum("nki,kij->nkj", gap, vectors)
    return (turned.square() * values.clamp(min=0.0)).sum(-1).sqrt()


def spectral(normal: Laplace) -> Spectral:
    """Precision of normal densities at modes, by eigenvalues and vectors."""
    assert isinstance(normal.precision, Spectral)  # that of a full Hessian is
    return normal.precision
