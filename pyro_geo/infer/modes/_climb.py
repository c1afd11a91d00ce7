"""Many climbs at once: evaluate, descend, polish, and look at the curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.ops.chunks import map_chunks, rows_that_fit
from pyro_geo.ops.lanes import column, map_lanes
from pyro_geo.optim.descent import lbfgs
from pyro_geo.optim.saddles import leave_saddles
from pyro_geo.optim.trust_region import (
    CONVERGED,
    PolishState,
    polish,
)

__all__ = ["Climber", "Ends", "distinct", "heights_agree"]

_LANES = 128
_MEMORY = 10  # pairs of L-BFGS
_ROUGH_TOL = 1e-4  # slope at which L-BFGS stops and Newton's method goes on, in nats
_NEWTON_STEPS, _MORE_STEPS = 8, 20  # for all, and for those that need more
_SAME_HEIGHT = 1e-3  # nats between two ends of one mode
_WORTHWHILE = 20.0  # nats below the highest end up to which a climb goes on longer
_ROUGH = 2e-3  # distance of ends of L-BFGS that are one, relative to their size
_SADDLE = -1e-6  # share of the largest curvature: less than that leads down


class Ends(NamedTuple):
    """Where climbs ended.

    Attributes:
        q: positions, `(climbs, dim)`.
        log_prob: log-density there, `(climbs,)`.
        converged: whether the gradient is zero there, `(climbs,)`.
    """

    q: Tensor
    log_prob: Tensor
    converged: Tensor

    def take(self, rows: Tensor) -> Ends:
        """Take some of them."""
        return Ends(*(x[rows] for x in self))


class Climber:
    """Climb a density from many starts, always the same number of lanes at once.

    One shape means one graph of each derivative, whatever number of rows comes.

    Args:
        target: the density.
        polish_steps: most steps of the descent.
    """

    def __init__(self, target: Target, polish_steps: int) -> None:
        self.target = target
        self.polish_steps = polish_steps
        # more than rounding leaves of a log-density of some thousand nats
        self.tolerance = 1e-7 if target.dtype == torch.float64 else 1e-3
        self.evaluations = 0
        self.gradients = 0
        self.products = 0
        self.non_finite = 0
        somewhere = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
        most = rows_that_fit(lambda: target.log_prob(somewhere))
        # one chain at a time: more lanes save nothing
        self.lanes = 16 if target.ceiling == "sequential" else min(_LANES, most)
        self.rows = most

    # -- one evaluation ----------------------------------------------------------------

    def log_prob(self, q: Tensor) -> Tensor:
        """Log-density of any number of rows; NaN counts as minus infinity."""
        with torch.no_grad():
            value = map_chunks(self.target.log_prob, q, self.rows)
        self.evaluations += len(q)
        bad = value.isnan() | (value == torch.inf)
        self.non_finite += int(bad.sum())
        return torch.where(bad, -torch.inf, value)

    def loss_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the log-density and its gradient, of `lanes` rows."""
        value, grad = self.target.value_and_grad(q)
        self.gradients += len(q)
        return -value, -grad

    def hvp(self, q: Tensor, v: Tensor) -> Tensor:
        """Hessian of minus the log-density times `v`, of `lanes` rows."""
        self.products += len(q)
        return -self.target.hvp(q, v)

    # -- climbs ------------------------------------------------------------------------

    def climb(
        self,
        q: Tensor,
        canonical: Callable[[Tensor], Tensor] | None = None,
        floor: float = -torch.inf,
    ) -> tuple[Ends, Tensor]:
        """Climb from any number of starts to where Newton's method stops.

        Args:
            q: starts, `(n, dim)`.
            canonical: brings symmetric copies of a point together.
            floor: log-density below which a climb is given up before it ends.

        Returns:
            The ends, and where they were before they were brought together.
        """
        rough = map_lanes(self._descend, q, self.lanes)
        visited = rough.q
        if canonical is not None:
            rough = rough._replace(q=canonical(rough.q))
        # many climbs end at one point: Newton's method goes on from one of them
        first, owner = distinct(rough, _ROUGH)
        high = first[rough.log_prob[first] > floor]
        ends = rough._replace(converged=torch.zeros_like(rough.converged)).take(first)
        if len(high):
            polished = self._longer(self.polish(rough.q[high]))
            rows = (rough.log_prob[first] > floor).nonzero().flatten()
            for old, new in zip(ends, polished, strict=True):
                old[rows] = new
        ends = ends.take(owner)
        if canonical is not None:
            ends = ends._replace(q=canonical(ends.q))
        return ends, visited

    def polish(
        self, q: Tensor, max_steps: int = _NEWTON_STEPS, tolerance: float | None = None
    ) -> Ends:
        """Polish points that are close to a mode."""
        tolerance = self.tolerance if tolerance is None else tolerance

        def run(rows: Tensor) -> Ends:
            state = polish(
                self.loss_and_grad,
                self.hvp,
                rows,
                tolerance=tolerance,
                max_steps=max_steps,
            )
            return self._ends(state)

        return map_lanes(run, q, self.lanes)

    def _longer(self, ends: Ends) -> Ends:
        """Go on with the highest of those ends that have not converged."""
        score = torch.where(ends.converged, -torch.inf, ends.log_prob)
        if bool(ends.converged.any()):
            level = ends.log_prob[ends.converged].max() - _WORTHWHILE
            score = torch.where(score > level, score, -torch.inf)
        best = score.argsort(descending=True)[: self.lanes]
        best = best[score[best].isfinite()]
        if len(best):
            longer = self.polish(ends.q[best], _MORE_STEPS)
            for old, new in zip(ends, longer, strict=True):
                old[best] = new
        return ends

    def _descend(self, q: Tensor) -> Ends:
        q = lbfgs(self.loss_and_grad, q, self.polish_steps, _MEMORY, _ROUGH_TOL)
        loss, grad = self.loss_and_grad(q)
        return Ends(q, -loss, grad.norm(dim=-1) < 1e-3)

    def _ends(self, state: PolishState) -> Ends:
        return Ends(state.q, -state.loss, state.status == CONVERGED)

    # -- curvature ---------------------------------------------------------------------

    def hessian(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues and vectors of the Hessians of minus the log-density."""
        n, dim = q.shape
        eye = torch.eye(dim, dtype=q.dtype, device=q.device)
        pairs = q.repeat_interleave(dim, 0), eye.repeat(n, 1)
        rows = map_lanes(lambda pair: self.hvp(*pair), pairs, self.lanes)
        matrix = rows.reshape(n, dim, dim)
        matrix = 0.5 * (matrix + matrix.mT)
        finite = matrix.isfinite().all(-1).all(-1)[:, None, None]
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
        return values, vectors

    def leave(self, ends: Ends, values: Tensor, noise: torch.Generator) -> Ends:
        """Leave those ends uphill that are saddles.

        Args:
            ends: some points.
            values: eigenvalues of their Hessians, `(n, dim)`.
            noise: randomness of the directions.

        Returns:
            The ends; those that moved are polished. A saddle without a way up has not
            converged.
        """
        share = values[:, 0] / values.abs().amax(-1).clamp(min=1e-30)
        saddle = (share < _SADDLE) & ends.converged
        if not bool(saddle.any()):
            return ends
        shape = (len(ends.q), ends.q.shape[1])
        start = torch.randn(shape, generator=noise, dtype=torch.float64).to(ends.q)

        def run(rows: tuple[Tensor, Tensor, Tensor]) -> Ends:
            q, start, active = rows
            state = polish(
                self.loss_and_grad,
                self.hvp,
                q,
                tolerance=self.tolerance,
                max_steps=1,
                active=active,
            )
            state = leave_saddles(
                self.loss_and_grad,
                self.hvp,
                state,
                start,
                tolerance=self.tolerance,
                max_steps=25,
                active=active & (state.status == CONVERGED),
            )
            return self._ends(state)

        moved = map_lanes(run, (ends.q, start, saddle), self.lanes)
        pick = column(saddle)
        return Ends(
            torch.where(pick, moved.q, ends.q),
            torch.where(saddle, moved.log_prob, ends.log_prob),
            torch.where(saddle, moved.converged, ends.converged),
        )


def distinct(ends: Ends, size: float) -> tuple[Tensor, Tensor]:
    """Pick one end of each group that is close together and equally high.

    Args:
        ends: of climbs.
        size: of a group, relative to the length of the positions.

    Returns:
        Rows of those picked, and for each end the number of its group.
    """
    level = heights_agree(ends.log_prob[:, None], ends.log_prob)
    near = torch.cdist(ends.q, ends.q) < size * (1.0 + column(ends.q.norm(dim=-1)))
    # what is not finite is close to nothing, not even to itself
    near |= torch.eye(len(near), dtype=torch.bool, device=near.device)
    # the first row that each one is close to; those that are their own are picked
    first = (near & level).long().argmax(-1)
    picked, owner = first[first].unique(return_inverse=True)
    return picked, owner


def heights_agree(x: Tensor, y: Tensor) -> Tensor:
    """Whether log-densities are those of one mode, up to rounding."""
    eps = torch.finfo(x.dtype).eps
    return ~((x - y).abs() > _SAME_HEIGHT + 1e3 * eps * x.abs())
