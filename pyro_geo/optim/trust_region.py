r"""Trust-region Newton steps: move points that are close to a minimum onto it.

The inner solver is Steihaug's conjugate gradients, batched over lanes. The solver stays
in the Krylov space of the gradient, so on a valley of minima the moves go across the
valley and do not slide along it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.ops.lanes import column, dot

__all__ = [
    "CONVERGED",
    "DIVERGING",
    "ENDED",
    "FIRST_RADIUS",
    "SADDLE",
    "UNDER_WAY",
    "PolishState",
    "polish",
]

# Conjugate-gradient iterations within one Newton step. A solve that needs more is
# continued in the next step, from a better point.
MAX_SOLVE = 100
# Share of the gradient that a solve may leave, to move on and to stop.
ROUGH, FINE = 0.1, 1e-3
FIRST_RADIUS = 1.0
UNDER_WAY, CONVERGED, ENDED, DIVERGING, SADDLE = range(5)
_ROUNDING = 64.0  # machine precisions of the loss that are rounding


def rounding_of(loss: Tensor) -> Tensor:
    """Say how small a difference cannot be seen in a loss.

    Args:
        loss: values of any shape.

    Returns:
        The rounding of each.

    Example:
        >>> float(rounding_of(torch.ones(()))) < 1e-5
        True
    """
    return _ROUNDING * torch.finfo(loss.dtype).eps * loss.abs()


class PolishState(NamedTuple):
    """Where every lane's search is.

    Attributes:
        q: positions, `(lanes, dim)`.
        loss: loss there, `(lanes,)` as are all but `grad`.
        grad: gradient there, `(lanes, dim)`.
        radius: radius of the trust region.
        predicted: decrease of the loss that was predicted for the last Newton step, or
            what it is at most where that was not solved to the end.
        status: `UNDER_WAY`, `CONVERGED`, `ENDED` without converging, `DIVERGING`, or
            `SADDLE`, which :func:`~pyro_geo.optim.saddles.leave_saddles` alone finds.
        n_iter: Newton steps tried.
        n_evals: evaluations, each a value with gradient or a Hessian-vector product.
    """

    q: Tensor
    loss: Tensor
    grad: Tensor
    radius: Tensor
    predicted: Tensor
    status: Tensor
    n_iter: Tensor
    n_evals: Tensor


class _Step(NamedTuple):
    """A trust-region step: the move, its predicted decrease, and how it ended."""

    move: Tensor  # (lanes, dim)
    predicted: Tensor  # (lanes,)
    most: Tensor  # bound on the decrease; as predicted where none is needed
    inside: Tensor  # solved to tolerance within the region, boolean
    n_products: Tensor


def _to_boundary(p: Tensor, s: Tensor, radius: Tensor) -> Tensor:
    """Largest `tau` with `|p + tau s| <= radius`, stable when `p` ends near it."""
    ps, ss = dot(p, s), dot(s, s)
    gap = (radius**2 - dot(p, p)).clamp(min=0.0)
    root = (ps**2 + ss * gap).sqrt()
    return torch.where(ps > 0, gap / (ps + root), (root - ps) / ss)


def _solve(
    hvp: Callable[[Tensor, Tensor], Tensor],
    q: Tensor,
    grad: Tensor,
    radius: Tensor,
    active: Tensor,
    tolerance: float,
) -> _Step:
    """Minimise the quadratic model within the region by Steihaug's method.

    A rough solution is enough for a step. Where its predicted decrease is no more than
    `tolerance`, the solution is refined: only an accurate prediction can show
    convergence. Negative curvature that appears while refining ends the solve where it
    is, since following it would slide along the valley.

    A system may be too badly conditioned for an accurate solution. What is left of the
    gradient bounds then what a convex model wins elsewhere in the region, and the move
    counts as solved where that is within `tolerance` too.

    Returns:
        The move, its predicted decrease and the bound on it.

    References:
        Nocedal & Wright (2006), Numerical optimization, algorithm 7.2.
    """
    move, residual = torch.zeros_like(grad), grad
    direction = -grad
    norm2 = dot(grad, grad)
    # Forcing sequence min(0.1, sqrt |g|), which makes Newton's method superlinear
    # (Nocedal & Wright 2006, theorem 7.2); squared here, as norms are.
    rough, fine = norm2 * norm2.sqrt().clamp(max=ROUGH**2), norm2 * FINE**2
    predicted = torch.zeros_like(norm2)
    going = active & (norm2 > 0)
    inside = active & (norm2 == 0)
    count = torch.zeros_like(going, dtype=torch.long)
    for _ in range(min(q.shape[-1], MAX_SOLVE)):
        if not bool(going.any()):
            break
        product = hvp(q, direction)
        count = count + going
        curvature = dot(direction, product)
        reach = _to_boundary(move, direction, radius)
        old2 = dot(residual, residual)
        length = old2 / curvature
        # Negative curvature, or a minimiser outside: stop on the boundary.
        refining = (old2 <= rough) & (curvature <= 0)
        inside = inside | (going & refining)
        going = going & ~refining
        leaves = (curvature <= 0) | (length >= reach)
        tau = torch.where(going, torch.where(leaves, reach, length), 0.0)
        # decrease of the model along the direction, as its slope is -|residual|^2
        gain = tau * old2 - 0.5 * tau**2 * curvature
        predicted = torch.where(going, predicted + gain, predicted)
        move = move + column(tau) * direction
        under_way = column(going)
        residual = torch.where(under_way, residual + column(tau) * product, residual)
        new2 = dot(residual, residual)
        target = torch.where(predicted > tolerance, rough, torch.minimum(rough, fine))
        solved = going & ~leaves & (new2 <= target)
        inside = inside | solved
        going = going & ~leaves & ~solved & torch.isfinite(new2)
        # the next conjugate direction, by Fletcher and Reeves' ratio
        turned = -residual + column(new2 / old2) * direction
        direction = torch.where(column(going), turned, direction)
    # After `dim` iterations conjugate gradients are exact, up to rounding.
    if q.shape[-1] <= MAX_SOLVE:
        return _Step(move, predicted, predicted, inside | going, count)
    far = dot(move, move).sqrt() + radius.clamp(min=FIRST_RADIUS)
    most = predicted + dot(residual, residual).sqrt() * far
    closed = going & (most <= tolerance)
    most = torch.where(closed, most, predicted)
    return _Step(move, predicted, most, inside | closed, count)


@renamed(tol="tolerance", max_iter="max_steps")
def polish(
    value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]],
    hvp: Callable[[Tensor, Tensor], Tensor],
    q: Tensor,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 25,
    active: Tensor | None = None,
) -> PolishState:
    """Polish every lane by trust-region Newton steps.

    A lane has converged once the decrease predicted for the full Newton step is at most
    `tolerance`; that step is its last. Where a predicted decrease is too small to show
    in the loss, a step is accepted if it makes the gradient smaller. A lane whose
    numbers stop being finite is frozen where it was.

    Args:
        value_and_grad: `(lanes, dim)` to `(lanes,)` and `(lanes, dim)`.
        hvp: Hessian-vector products, `(lanes, dim)` twice to `(lanes, dim)`.
        q: starts, `(lanes, dim)`.
        tolerance: predicted decrease at which to stop.
        max_steps: Newton steps allowed.
        active: lanes to polish, `(lanes,)` boolean, default all; the others keep
            their position.

    Returns:
        The last state.

    References:
        Steihaug (1983), The conjugate gradient method and trust regions in large
        scale optimization.

    Example:
        >>> a = torch.tensor([1.0, 4.0])
        >>> state = polish(
        ...     lambda x: ((a * x * x).sum(-1) / 2, a * x),
        ...     lambda x, v: a * v,
        ...     torch.tensor([[0.3, -0.2]]),
        ...     tolerance=1e-6,
        ... )
        >>> state.status.tolist(), bool(state.q.abs().max() < 1e-3)
        ([1], True)
    """
    loss, grad = value_and_grad(q)
    ones = torch.ones_like(loss)
    count = torch.zeros_like(loss, dtype=torch.long)
    chosen = torch.ones_like(count, dtype=torch.bool) if active is None else active
    finite = torch.isfinite(loss) & torch.isfinite(grad).all(-1)
    state = PolishState(
        q=q,
        loss=loss,
        grad=grad,
        radius=FIRST_RADIUS * ones,
        predicted=torch.nan * ones,
        status=torch.where(finite, torch.where(chosen, UNDER_WAY, ENDED), DIVERGING),
        n_iter=count,
        n_evals=count + 1,
    )
    for last in [False] * max_steps + [True]:
        going = state.status == UNDER_WAY
        if not bool(going.any()):
            break
        step = _solve(hvp, state.q, state.grad, state.radius, going, tolerance)
        n_evals = state.n_evals + step.n_products
        lost = going & ~torch.isfinite(step.predicted)
        settled = going & step.inside & (step.most <= tolerance) & ~lost
        status = torch.where(settled, CONVERGED, state.status)
        status = torch.where(lost, DIVERGING, status)
        predicted = torch.where(going, step.most, state.predicted)
        state = state._replace(status=status, predicted=predicted, n_evals=n_evals)
        if last:
            break
        state = _try_step(value_and_grad, state, step, going & ~lost)
    return state._replace(
        status=torch.where(state.status == UNDER_WAY, ENDED, state.status)
    )


def _try_step(
    value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]],
    state: PolishState,
    step: _Step,
    going: Tensor,
) -> PolishState:
    """Take the move where the loss falls as predicted, and resize the trust region."""
    trial = torch.where(column(going), state.q + step.move, state.q)
    loss, grad = value_and_grad(trial)
    finite = torch.isfinite(loss) & torch.isfinite(grad).all(-1)
    # actual over predicted decrease decides (Nocedal & Wright 2006, algorithm 4.1)
    share = (state.loss - loss) / step.predicted
    blind = step.predicted <= rounding_of(loss)
    flatter = dot(grad, grad) < dot(state.grad, state.grad)
    good = torch.where(blind, flatter, share > 1e-4)
    accept = going & finite & good
    length = dot(step.move, step.move).sqrt()
    trusted = torch.where(blind, flatter, share > 0.75)
    poor = ~finite | torch.where(blind, ~flatter, ~(share >= 0.25))
    # a solve that was given up within the region says nothing about its size
    held = trusted & ~step.inside & (length >= 0.99 * state.radius)
    wider = torch.where(held, 2.0 * state.radius, state.radius)
    radius = torch.where(poor, 0.25 * length, wider)
    row = column(accept)
    return state._replace(
        q=torch.where(row, trial, state.q),
        loss=torch.where(accept, loss, state.loss),
        grad=torch.where(row, grad, state.grad),
        radius=torch.where(going, radius, state.radius),
        n_iter=state.n_iter + going,
        n_evals=state.n_evals + going,
    )
