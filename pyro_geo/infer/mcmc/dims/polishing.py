"""Newton polish of any number of positions, and the search for saddles among them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.density import Target
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.ops.lanes import dot, map_lanes
from pyro_geo.optim.saddles import leave_saddles
from pyro_geo.optim.trust_region import CONVERGED, FIRST_RADIUS, PolishState, polish

__all__ = ["is_sloping", "leave_saddles_lanes", "maybe_saddles", "polish_lanes"]


@renamed(tol="tolerance", max_iter="max_steps")
def polish_lanes(
    target: Target,
    objective: Objective,
    q: Tensor,
    num_lanes: int,
    *,
    tolerance: float,
    max_steps: int,
    active: Tensor | None = None,
) -> PolishState:
    """Polish any number of positions, a fixed number at a time.

    Args:
        target: the density.
        objective: the loss on it.
        q: positions, `(n, dim)`.
        num_lanes: how many at a time.
        tolerance: predicted decrease at which to stop, in nats.
        max_steps: Newton steps allowed.
        active: which positions to polish, `(n,)` boolean, default all.

    Returns:
        The final state, leading axis `n`.
    """

    def run(inputs: tuple[Tensor, Tensor]) -> PolishState:
        rows, chosen = inputs
        return polish(
            lambda x: objective.value_and_grad(target, x),
            lambda x, v: objective.hvp(target, x, v),
            rows,
            tolerance=tolerance,
            max_steps=max_steps,
            active=chosen,
        )

    chosen = torch.ones_like(q[:, 0], dtype=torch.bool) if active is None else active
    return map_lanes(run, (q, chosen), num_lanes)


@renamed(tol="tolerance")
def is_sloping(
    target: Target,
    objective: Objective,
    q: Tensor,
    grad: Tensor,
    num_lanes: int,
    tolerance: float,
) -> Tensor:
    """Say where one step down the slope alone wins too much for a critical point.

    A Newton step would predict no less, so that such positions need no search.

    Args:
        target: the density.
        objective: the loss on it.
        q: positions, `(n, dim)`.
        grad: gradients there, `(n, dim)`.
        num_lanes: how many at a time.
        tolerance: decrease that counts as nothing, in nats.

    Returns:
        Which ones, `(n,)` boolean.
    """
    product = map_lanes(lambda x: objective.hvp(target, *x), (q, grad), num_lanes)
    square, curvature = dot(grad, grad), dot(grad, product)
    # the least value of the loss along the slope, to second order
    gain = torch.where(curvature > 0, 0.5 * square**2 / curvature, torch.inf)
    return ~(gain <= tolerance) & ~(square.sqrt() * FIRST_RADIUS <= tolerance)


@renamed(tol="tolerance")
def maybe_saddles(state: PolishState, tolerance: float) -> Tensor:
    """Say which positions may be saddles, where no Newton step is allowed.

    Where Newton's method has met negative curvature, it predicts much to win even if
    there is no slope at all, and a step would have followed it.

    Args:
        state: polished positions.
        tolerance: decrease that counts as nothing, in nats.

    Returns:
        Which ones to look at more closely, `(n,)` boolean.
    """
    level = state.grad.norm(dim=-1) * FIRST_RADIUS <= tolerance
    return (state.status == CONVERGED) | level | (state.predicted <= tolerance)


@renamed(tol="tolerance", max_iter="max_steps")
def leave_saddles_lanes(
    target: Target,
    objective: Objective,
    state: PolishState,
    normals: Tensor | None,
    num_lanes: int,
    *,
    tolerance: float,
    max_steps: int,
    active: Tensor,
    directions: int = 1,
    share: float = 1e-2,
    risk: float = 1e-3,
) -> PolishState:
    """Tell saddles from minima among polished positions, and leave them downhill.

    Args:
        target: the density.
        objective: the loss on it.
        state: the positions, leading axis `n`.
        normals: what the search starts with, `(n, dim)`; fixed numbers if None.
        num_lanes: how many at a time.
        tolerance: predicted decrease that they were polished to, in nats.
        max_steps: Newton steps allowed after each way down; with 0 nothing moves.
        active: which positions to look at, `(n,)` boolean.
        directions: most directions to follow at a position.
        share: smallest negative eigenvalue, relative to the largest one, that is found
            but for a probability of `risk`.
        risk: that probability.

    Returns:
        The state as :func:`~pyro_geo.optim.saddles.leave_saddles` gives it; positions
        that were not asked for are bitwise unchanged.
    """
    rows = active.nonzero().squeeze(-1)
    if not len(rows):
        return state

    if normals is None:
        generator = torch.Generator().manual_seed(0)
        normals = torch.randn(state.q.shape, generator=generator, dtype=torch.float64)
        normals = normals.to(state.q)

    def run(inputs: tuple[PolishState, Tensor]) -> PolishState:
        lanes, numbers = inputs
        return leave_saddles(
            lambda x: objective.value_and_grad(target, x),
            lambda x, v: objective.hvp(target, x, v),
            lanes,
            numbers,
            tolerance=tolerance,
            max_steps=max_steps,
            active=torch.ones_like(lanes.status, dtype=torch.bool),
            directions=directions,
            share=share,
            risk=risk,
        )

    # only they take up lanes
    chosen = PolishState(*(x.index_select(0, rows) for x in state))
    found = map_lanes(run, (chosen, normals.index_select(0, rows)), num_lanes)
    pairs = zip(state, found, strict=True)
    return PolishState(*(old.index_copy(0, rows, new) for old, new in pairs))
