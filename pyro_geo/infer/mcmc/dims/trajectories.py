"""One block of trajectories: explore, settle, polish, and their statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density import Rung, Target
from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.polishing import (
    is_sloping,
    leave_saddles_lanes,
    maybe_saddles,
    polish_lanes,
)
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.result import FlowResult, flow_result
from pyro_geo.infer.mcmc.dims.state import FlowState, is_active
from pyro_geo.ops.lanes import map_lanes, run_lanes
from pyro_geo.optim.trust_region import (
    CONVERGED,
    ENDED,
    SADDLE,
    PolishState,
    rounding_of,
)

__all__ = ["STATS", "run_trajectories"]

STATS = (
    "lp",
    "loss_anchor",
    "loss_explored",
    "loss_settled",
    "loss",
    "energy",
    "energy_initial",
    "energy_dissipated",
    "energy_error",
    "kinetic",
    "grad_norm",
    "peak_loss",
    "path_length",
    "displacement",
    "polish_displacement",
    "integration_time",
    "n_steps",
    "n_rejected",
    "n_evals",
    "step_size",
    "converged",
    "saddle",
    "diverging",
)

_AT_REST = 1e-2  # kinetic energy of a trajectory that has come to rest
# The search for saddles: directions followed down where the loss is flat, and which
# negative curvature is missed how often, relative to the largest one. Half the steps
# of a trained anchor's: the search is a part of the cost of every draw.
_DIRECTIONS, _SHARE, _RISK = 2, 0.02, 0.01
_UNPOLISHED = 10.0  # tolerances by which a draw's loss may differ without a polish


def run_trajectories(
    target: Target,
    objective: Objective,
    options: DIMSOptions,
    q: Tensor,
    v: Tensor,
    num_lanes: int,
    normals: Callable[[], Tensor] | None = None,
    level: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor], int, Rung]:
    """Throw particles and follow them to rest.

    Args:
        target: the density.
        objective: the loss on it.
        options: all numbers.
        q: starts, `(n, dim)`.
        v: velocities, `(n, dim)`.
        num_lanes: trajectories in flight.
        normals: makes normal numbers for the search for saddles, `(n, dim)`; called
            once, if any trajectory has converged otherwise. Fixed ones if None.
        level: loss of the minimum that each has left, `(n,)`; NaN where it is not known
            to be one, as everywhere if None. What ends at that level again is not
            searched for a way down.

    Returns:
        End points `(n, dim)`, statistics `(n,)` by the names of `STATS`, the number
        of batched steps and the rung they ran on.
    """
    anchor_loss, flow, steps, rung = _flow(target, objective, options, q, v, num_lanes)
    # what ended by itself, at rest, with its energy balanced
    at_rest = flow.finished & (flow.kinetic <= _AT_REST)
    at_rest &= flow.energy_error.abs() <= options.step_tol
    end = _polished(target, objective, options, flow, num_lanes)
    steps_left = options.polish_max_steps if options.polish else 0
    candidates = at_rest
    if options.polish:
        near = _minimal(end)
        if not steps_left:
            near |= maybe_saddles(end, options.polish_tolerance)
        candidates = at_rest & near
    if level is not None:
        slack = options.polish_tolerance * (1.0 if options.polish else _UNPOLISHED)
        candidates = candidates & ~((end.loss - level).abs() <= slack)
    if not options.polish and bool(candidates.any()):
        slope = end.q, end.grad, num_lanes, options.polish_tolerance
        candidates = candidates & ~is_sloping(target, objective, *slope)
    if bool(candidates.any()):
        end = leave_saddles_lanes(
            target,
            objective,
            end,
            None if normals is None else normals(),
            num_lanes,
            tolerance=options.polish_tolerance,
            max_steps=steps_left,
            active=candidates,
            directions=_DIRECTIONS,
            share=_SHARE,
            risk=_RISK,
        )
    theta, loss = end.q, end.loss
    saddle = end.status == SADDLE
    # converged: at rest, and at a minimum where the polish looks for one
    converged = at_rest & ~saddle
    if options.polish:
        converged &= _minimal(end)
    stats = {
        "lp": -loss,
        "loss_anchor": anchor_loss,
        "loss_explored": flow.loss_explored,
        "loss_settled": flow.loss_settled,
        "loss": loss,
        "energy": flow.energy,
        "energy_initial": flow.energy_initial,
        "energy_dissipated": flow.energy_dissipated,
        "energy_error": flow.energy_error,
        "kinetic": flow.kinetic,
        "grad_norm": end.grad.norm(dim=-1),
        "peak_loss": flow.peak_loss,
        "path_length": flow.path_length,
        "displacement": (theta - q).norm(dim=-1),
        "polish_displacement": (theta - flow.theta).norm(dim=-1),
        "integration_time": flow.integration_time,
        "n_steps": flow.n_steps,
        "n_rejected": flow.n_rejected,
        "n_evals": flow.n_evals + end.n_evals,
        "step_size": flow.step_size,
        "converged": converged,
        "saddle": saddle,
        "diverging": flow.diverging,
    }
    return theta, stats, steps, rung


def _polished(
    target: Target,
    objective: Objective,
    options: DIMSOptions,
    flow: FlowResult,
    num_lanes: int,
) -> PolishState:
    """Polish the ends of the flow, or evaluate them where that is off."""
    if options.polish:
        return polish_lanes(
            target,
            objective,
            flow.theta,
            num_lanes,
            tolerance=options.polish_tolerance,
            max_steps=options.polish_max_steps,
            active=~flow.diverging,
        )
    loss, grad = map_lanes(
        lambda x: objective.value_and_grad(target, x), flow.theta, num_lanes
    )
    none = torch.zeros_like(flow.n_evals)
    unknown = torch.full_like(loss, torch.nan)
    return PolishState(flow.theta, loss, grad, loss, unknown, none + ENDED, none, none)


def _minimal(end: PolishState) -> Tensor:
    """Say where a Newton step predicts nothing to win that would show in the loss."""
    return (end.status == CONVERGED) | (end.predicted <= rounding_of(end.loss))


def _flow(
    target: Target,
    objective: Objective,
    options: DIMSOptions,
    q: Tensor,
    v: Tensor,
    num_lanes: int,
) -> tuple[Tensor, FlowResult, int, Rung]:
    """Explore and settle; return also the start's losses, the steps and the rung."""
    params, solver = options.params(q.dtype, q.device), options.solver()
    # the functions hold this flag and not the options, whose numbers enter by `params`:
    # a graph then serves all of them
    euclidean = options.euclidean
    start = target.lift(
        (*objective.key, "start", euclidean, solver),
        lambda target, params, q, v: start_flow(
            Problem(objective.on(target), params, euclidean), solver, q, v
        ),
        "the start of DIMS trajectories",
    )
    laned = (False, True, True)
    queue: FlowState = map_lanes(
        lambda pair: start(target.data, params, *pair, rung="traced", laned=laned),
        (q, v),
        num_lanes,
    )
    lifted = target.lift(
        (*objective.key, "step", euclidean, solver),
        lambda target, params, state: advance(
            Problem(objective.on(target), params, euclidean), solver, state
        ),
        "a step of DIMS",
    )
    # the step is compiled for the shapes of one set of lanes
    rows = torch.arange(num_lanes, device=q.device).clamp(max=len(q) - 1)
    lanes = pytree.tree_map(lambda x: x.index_select(0, rows), queue)
    bound = lifted.specialise(
        target.data, params, lanes, rung=target.rung, laned=(False, True)
    )
    count = 0

    def step(state: FlowState) -> FlowState:
        nonlocal count
        count += 1
        return bound(params, state)

    final = run_lanes(step, queue, num_lanes, active=is_active)
    return queue.loss, flow_result(final), count, lifted.rung
