"""One block of trajectories: explore, settle, polish, and their statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density import Rung, Target
from pyro_geo.infer.mcmc.dims.anchors import polish_lanes
from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.result import FlowResult, flow_result
from pyro_geo.infer.mcmc.dims.state import FlowState, is_active
from pyro_geo.ops.lanes import map_lanes, run_lanes
from pyro_geo.optim.newton import CONVERGED, ROUNDING

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
    "diverging",
)

_AT_REST = 1e-2  # kinetic energy of a trajectory that has come to rest


def run_trajectories(
    target: Target,
    objective: Objective,
    options: DIMSOptions,
    q: Tensor,
    v: Tensor,
    num_lanes: int,
) -> tuple[Tensor, dict[str, Tensor], int, Rung]:
    """Throw particles and follow them to rest.

    Args:
        target: the density.
        objective: the loss on it.
        options: all numbers.
        q: starts, `(n, dim)`.
        v: velocities, `(n, dim)`.
        num_lanes: trajectories in flight.

    Returns:
        End points `(n, dim)`, statistics `(n,)` by the names of `STATS`, the number
        of batched steps and the rung they ran on.
    """
    anchor_loss, flow, steps, rung = _flow(target, objective, options, q, v, num_lanes)
    theta = flow.theta
    minimal = torch.ones_like(flow.diverging)
    n_evals = flow.n_evals
    if options.polish:
        polished = polish_lanes(
            target,
            objective,
            theta,
            num_lanes,
            tol=options.polish_tol,
            max_iter=options.polish_max_iter,
            active=~flow.diverging,
        )
        theta, loss, grad = polished.q, polished.loss, polished.grad
        n_evals = n_evals + polished.n_evals
        # a predicted decrease below the loss's rounding cannot show in the loss
        rounding = ROUNDING * torch.finfo(loss.dtype).eps * loss.abs()
        minimal = (polished.status == CONVERGED) | (polished.predicted <= rounding)
    else:
        loss, grad = map_lanes(
            lambda x: objective.value_and_grad(target, x), theta, num_lanes
        )
    # converged: ended by itself, at rest, energy balanced, at a minimum of the loss
    at_rest = flow.kinetic <= _AT_REST
    balanced = flow.energy_error.abs() <= options.step_tol
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
        "grad_norm": grad.norm(dim=-1),
        "peak_loss": flow.peak_loss,
        "path_length": flow.path_length,
        "displacement": (theta - q).norm(dim=-1),
        "polish_displacement": (theta - flow.theta).norm(dim=-1),
        "integration_time": flow.integration_time,
        "n_steps": flow.n_steps,
        "n_rejected": flow.n_rejected,
        "n_evals": n_evals,
        "step_size": flow.step_size,
        "converged": flow.finished & at_rest & balanced & minimal,
        "diverging": flow.diverging,
    }
    return theta, stats, steps, rung


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
