r"""Tell minima from saddles, and leave a saddle downhill.

A Newton step predicts nothing to win at any point with a small gradient, saddles
included. What tells them apart is a direction in which the loss curves down, which
Lanczos' method finds in a few Hessian products, and a loss that falls along it.

Both are asked for. On a bent valley of minima the loss curves down along the valley
everywhere but on its floor, and points that are polished to a tolerance lie a little
above it: there the direction wins no more than is left across the valley.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.geometry.lanczos import Ritz, lanczos, num_steps
from pyro_geo.ops.lanes import column, dot
from pyro_geo.optim.trust_region import (
    CONVERGED,
    FIRST_RADIUS,
    SADDLE,
    PolishState,
    polish,
    rounding_of,
)

__all__ = ["leave_saddles"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

# A share of the largest curvature: more of it downwards is too much for a point of
# the floor, and the point is polished on.
_STEEP = 1e-2
# A fall of more than this many times the predicted decrease does not end on the
# valley's floor: a Newton step predicts at least half of what is left of any power of
# the distance, and is itself solved to a part in a thousand.
_EXPLAINED = 3.0
_SHORTEST, _LONGEST = 8, 12  # quarterings and doublings of a step
_FINER = 1e-2  # tolerance of each further polish, as a share of the last
_ROUNDS = 4  # times that a saddle is left before a point is given up
_BASIS = 1 << 28  # bytes of Lanczos vectors


class _Fall(NamedTuple):
    """The lowest point found along a direction."""

    q: Tensor  # (lanes, dim)
    gain: Tensor  # (lanes,)
    length: Tensor  # of the way there
    n_evals: Tensor


@renamed(tol="tolerance", max_iter="max_steps")
def leave_saddles(
    value_and_grad: ValueAndGrad,
    hvp: Callable[[Tensor, Tensor], Tensor],
    state: PolishState,
    start: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    active: Tensor,
    directions: int = 1,
    share: float = 1e-2,
    risk: float = 1e-3,
) -> PolishState:
    r"""Look for a way down from points where Newton's method sees none.

    A point is a saddle if the loss falls along a direction that curves down (or is
    flat) by more than the predicted decrease explains. It goes to the lowest point on
    that line and is polished again, some times at most. One that has not found a
    minimum then, or may not move, is put back and gets the status `SADDLE`. Any other
    point keeps every bit of its position, unless the curvature downwards is more than
    a hundredth of the largest one.

    Directions are the smallest Ritz vectors of as many steps as
    :func:`~pyro_geo.geometry.lanczos.num_steps` says for `share` and `risk`. Where
    derivatives of second order vanish, a direction is as good as any; each of
    `directions` that are orthogonal finds the way down from a saddle of even order in
    half of the cases.

    Args:
        value_and_grad: `(lanes, dim)` to `(lanes,)` and `(lanes, dim)`.
        hvp: Hessian-vector products, `(lanes, dim)` twice to `(lanes, dim)`.
        state: the points, polished; where the predicted decrease is NaN it is found as
            far as it is needed, and the gain must be more than `tolerance` too.
        start: normal numbers that Lanczos' method starts with, `(lanes, dim)`.
        tolerance: predicted decrease that the points were polished to.
        max_steps: Newton steps allowed after each way down; with 0 nothing moves.
        active: which points to look at, `(lanes,)` boolean.
        directions: most directions to follow at a point.
        share: smallest negative eigenvalue, relative to the largest one, that is found
            but for a probability of `risk`.
        risk: that probability.

    Returns:
        The state, with the evaluations that were needed.

    References:
        Goldfarb, Mu, Wright and Zhou (2017), Using negative curvature in solving
        nonlinear programs, for steps along negative curvature.

    Example:
        >>> def value_and_grad(x):
        ...     well = x[:, 0] ** 2 - 1
        ...     slope = torch.stack([4 * x[:, 0] * well, 2 * x[:, 1]], -1)
        ...     return well**2 + x[:, 1] ** 2, slope
        >>> def hvp(x, v):
        ...     return torch.stack([12 * x[:, 0] ** 2 - 4, 2 + 0 * x[:, 1]], -1) * v
        >>> state = polish(value_and_grad, hvp, torch.zeros(1, 2))
        >>> state.loss.item(), state.status.item() == CONVERGED
        (1.0, True)
        >>> state = leave_saddles(
        ...     value_and_grad,
        ...     hvp,
        ...     state,
        ...     torch.ones(1, 2),
        ...     tolerance=1e-2,
        ...     max_steps=25,
        ...     active=torch.tensor([True]),
        ... )
        >>> bool(state.loss < 1e-2), state.status.item() == CONVERGED
        (True, True)
    """
    dim = start.shape[-1]
    room = _BASIS // (start.numel() * start.element_size())
    steps = max(1, min(num_steps(dim, share, risk), room))
    rounds = _ROUNDS if max_steps else 0
    first, finer = state, tolerance
    left = torch.zeros_like(active)  # points that were saddles
    lost = torch.zeros_like(active)  # those of them that have not found a minimum
    for k in range(rounds + 1):
        if not bool(active.any()):
            break
        q = state.q
        ritz = lanczos(lambda v, q=q: hvp(q, v), start, steps, directions)
        rounding = rounding_of(state.loss)
        steep = ritz.values[:, 0] < -_STEEP * ritz.norm
        limit = _limit(state, ritz, tolerance, torch.ones_like(rounding))
        least = torch.where(steep, rounding, limit)
        fall = _fall(value_and_grad, state, ritz, tolerance, least, active)
        spent = torch.where(active, steps, 0) + fall.n_evals
        state = state._replace(n_evals=state.n_evals + spent)
        asked = (
            active
            & state.predicted.isnan()
            & (fall.gain > rounding.clamp(min=tolerance))
        )
        state, sloping = _look(value_and_grad, hvp, state, tolerance, asked)
        saddle = active & (fall.gain > _limit(state, ritz, tolerance, fall.length))
        saddle &= ~sloping & ~state.predicted.isnan()
        left |= saddle
        if k == rounds:
            lost |= saddle
            break
        active = saddle | (active & steep)
        finer *= _FINER
        moved = torch.where(column(active & (fall.gain > rounding)), fall.q, q)
        state = _polish_on(value_and_grad, hvp, state, moved, finer, max_steps, active)
        still = rounding_of(state.loss)
        at_rest = state.predicted <= still.clamp(min=tolerance)
        status = torch.where(active & at_rest, CONVERGED, state.status)
        state = state._replace(status=status)
        lost |= left & active & ~at_rest
        active = active & at_rest
    saddles = first._replace(
        status=torch.full_like(state.status, SADDLE),
        n_iter=state.n_iter,
        n_evals=state.n_evals,
    )
    return _where(lost, saddles, state)


def _look(
    value_and_grad: ValueAndGrad,
    hvp: Callable[[Tensor, Tensor], Tensor],
    state: PolishState,
    tolerance: float,
    asked: Tensor,
) -> tuple[PolishState, Tensor]:
    """Find what a Newton step predicts at some points that were not polished.

    Returns:
        The state, and which of them are on a slope, where any fall is explained.
    """
    if not bool(asked.any()):
        return state, asked
    look = polish(
        value_and_grad, hvp, state.q, tolerance=tolerance, max_steps=0, active=asked
    )
    level = dot(look.grad, look.grad).sqrt() * FIRST_RADIUS <= tolerance
    state = state._replace(
        status=torch.where(asked, look.status, state.status),
        predicted=torch.where(asked, look.predicted, state.predicted),
        n_evals=state.n_evals + torch.where(asked, look.n_evals, 0),
    )
    return state, asked & ~level & (look.status != CONVERGED)


def _limit(state: PolishState, ritz: Ritz, tolerance: float, length: Tensor) -> Tensor:
    """Bound how far the loss may fall along a line from a point that is no saddle.

    Returns:
        The bound, `(lanes,)`: some times what the slope leaves to win, and rounding.
    """
    # the decrease predicted for a Newton step, where that ended within the trust
    # region; elsewhere it may be of negative curvature, which the slope has no part in
    slope = dot(state.grad, state.grad).sqrt() * length.clamp(min=FIRST_RADIUS)
    predicted = state.predicted.nan_to_num(0.0)
    inside = state.status == CONVERGED
    gain = torch.where(inside, predicted, torch.minimum(predicted, slope))
    explained = _EXPLAINED * gain
    # a flat direction must win what counts: what a loss without a minimum has left is
    # more than a Newton step predicts
    down = ritz.values[:, 0] < -ritz.rounding
    rounding = rounding_of(state.loss)
    return torch.where(down, explained, explained.clamp(min=tolerance)) + rounding


def _where(chosen: Tensor, new: PolishState, old: PolishState) -> PolishState:
    """Take some lanes from one state and the rest from another."""
    return PolishState(
        *(
            torch.where(column(chosen) if x.dim() > 1 else chosen, x, y)
            for x, y in zip(new, old, strict=True)
        )
    )


def _polish_on(
    value_and_grad: ValueAndGrad,
    hvp: Callable[[Tensor, Tensor], Tensor],
    state: PolishState,
    q: Tensor,
    tolerance: float,
    max_steps: int,
    active: Tensor,
) -> PolishState:
    """Polish some points from other positions, and leave the rest as they are."""
    new = polish(
        value_and_grad, hvp, q, tolerance=tolerance, max_steps=max_steps, active=active
    )
    new = new._replace(
        n_iter=state.n_iter + new.n_iter, n_evals=state.n_evals + new.n_evals
    )
    return _where(active, new, state)


def _fall(
    value_and_grad: ValueAndGrad,
    state: PolishState,
    ritz: Ritz,
    tolerance: float,
    least: Tensor,
    active: Tensor,
) -> _Fall:
    """Follow the directions without upward curvature to where the loss is lowest."""
    q, gain = state.q, torch.zeros_like(state.loss)
    reach = torch.zeros_like(gain)
    count = torch.zeros_like(state.n_evals)
    for i in range(ritz.vectors.shape[1]):
        value = ritz.values[:, i]
        lanes = active & (value <= ritz.rounding)
        if not bool(lanes.any()):
            break
        line = _Line(value_and_grad, state, ritz.vectors[:, i], lanes)
        down = value < -ritz.rounding
        # where a quadratic loss changes by the tolerance, or shows above its rounding
        rounding = rounding_of(state.loss)
        bend = torch.maximum(value.abs(), ritz.rounding)
        usual = (2 * rounding.clamp(min=tolerance) / bend).sqrt()
        near = FIRST_RADIUS / 16
        length = torch.where(
            down, usual.clamp(near, 64 * FIRST_RADIUS), usual.clamp(max=near)
        )
        # a shorter step than this cannot win what is asked for
        shortest = torch.where(down, (2 * least / bend).sqrt(), torch.inf)
        line.search(length, shortest)
        better = lanes & (state.loss - line.loss > gain)
        q = torch.where(column(better), line.q, q)
        gain = torch.where(better, state.loss - line.loss, gain)
        reach = torch.where(better, (line.q - state.q).norm(dim=-1), reach)
        count = count + line.n_evals
    return _Fall(q, gain, reach, count)


class _Line:
    """Search for a low point along one direction of every lane, both ways.

    Args:
        value_and_grad: of the loss.
        state: where the lines start.
        v: unit vectors, `(lanes, dim)`.
        lanes: which ones to search.
    """

    def __init__(
        self,
        value_and_grad: ValueAndGrad,
        state: PolishState,
        v: Tensor,
        lanes: Tensor,
    ) -> None:
        self._value_and_grad, self._start, self._lanes = value_and_grad, state, lanes
        # towards smaller losses, where there is a slope
        self._v = torch.where(column(dot(state.grad, v) > 0), -v, v)
        self.q, self.loss = state.q, state.loss
        self.n_evals = torch.zeros_like(state.n_evals)

    def search(self, length: Tensor, shortest: Tensor) -> None:
        """Find a step that lowers the loss, and double it while the loss falls.

        Args:
            length: of the first step, `(lanes,)`.
            shortest: step that is short enough, `(lanes,)`.
        """
        self._try(length, self._lanes)
        other = self._lanes & ~(self.loss < self._start.loss)
        back = self._try(-length, other)
        length = torch.where(back, -length, length)
        for _ in range(_SHORTEST):
            missing = self._lanes & ~(self.loss < self._start.loss)
            missing &= length.abs() > shortest
            if not bool(missing.any()):
                break
            length = torch.where(missing, 0.25 * length, length)
            self._try(length, missing)
        falling = self._lanes & (self.loss < self._start.loss)
        for _ in range(_LONGEST):
            if not bool(falling.any()):
                break
            length = torch.where(falling, 2.0 * length, length)
            falling = self._try(length, falling)

    def _try(self, length: Tensor, lanes: Tensor) -> Tensor:
        """Evaluate one step of some lanes, and say where it is the lowest so far."""
        if not bool(lanes.any()):
            return lanes
        step = torch.where(lanes, length, 0.0)
        q = self._start.q + column(step) * self._v
        loss, _ = self._value_and_grad(q)
        lower = lanes & (loss < self.loss)
        self.q = torch.where(column(lower), q, self.q)
        self.loss = torch.where(lower, loss, self.loss)
        self.n_evals = self.n_evals + lanes
        return lower
