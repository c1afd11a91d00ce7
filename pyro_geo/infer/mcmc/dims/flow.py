"""The loop of the dissipative flow: start, take or refuse steps, change stage, end.

A solver proposes a step for every lane; :func:`advance` accepts or rejects it, adds its
friction work to the ledger, switches a lane that has explored to settling, and ends it.
A lane that was not active comes back bitwise unchanged, so
:func:`~pyro_geo.ops.lanes.run_lanes` can call :func:`advance` until all have ended.
"""

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.solvers import Solver
from pyro_geo.infer.mcmc.dims.state import (
    ACTIVE,
    DIVERGING,
    OUT_OF_BUDGET,
    OUT_OF_TIME,
    STOPPED,
    FlowState,
    is_active,
)
from pyro_geo.ops.lanes import column

__all__ = ["CALM_SHARE", "FIRST_STEP", "SMALLEST_STEP", "advance", "start_flow"]

# The first step is this share of the stage. Where it is too long, a few rejections
# shorten it.
FIRST_STEP = 0.02
# A particle counts as stopped once its kinetic energy has been below `k_stop` for this
# share of the stage. At a turning point it is small too, but not for long.
CALM_SHARE = 0.05
SMALLEST_STEP = 1e-12


def start_flow(problem: Problem, solver: Solver, q: Tensor, v: Tensor) -> FlowState:
    """Put particles at their start, with one evaluation of the model.

    Lanes whose energy is not finite start with the status `DIVERGING`: they take no
    step and do not disturb the others.

    Args:
        problem: the equations of motion.
        solver: the one that will take the steps.
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.

    Returns:
        The state before the first step. No two fields share memory.

    Example:
        >>> from pyro_geo.infer.mcmc.dims.problem import flow_params
        >>> from pyro_geo.infer.mcmc.dims.solvers.splitting import Splitting
        >>> params = flow_params(dtype=torch.float32)
        >>> plane = Problem(lambda x: x.sum(-1), params, euclidean=True)
        >>> q, v = torch.ones(1, 1), 2 * torch.ones(1, 1)
        >>> state = start_flow(plane, Splitting(), q, v)
        >>> state.kinetic.item(), state.energy.item()
        (2.0, 3.0)
    """
    params = problem.params
    value, kinetic, carried = solver.start(problem, q, v)
    energy = kinetic + params.gravity * value
    ones = torch.ones_like(value)
    end = params.end_time.to(ones)
    # a stage of length 0 is skipped; without any the lane has ended at its start
    explores, settles = end[0] > 0, end[1] > 0
    count = torch.zeros_like(ones, dtype=torch.long)
    idle = torch.where(explores | settles, ACTIVE, OUT_OF_TIME)
    return FlowState(
        q=q.detach().clone(),
        v=v.detach().clone(),
        t=0 * ones,
        h=torch.where(explores, end[0], end[1]) * FIRST_STEP * ones,
        loss=value.clone(),
        energy=energy.clone(),
        kinetic=kinetic.clone(),
        energy_initial=energy.clone(),
        kinetic_initial=kinetic.clone(),
        dissipated=0 * ones,
        calm=0 * ones,
        stage=torch.where(explores, 0, 1) + count,
        status=torch.where(torch.isfinite(energy), idle, DIVERGING),
        exhausted=count > 0,
        peak_loss=value.clone(),
        loss_explored=value.clone(),
        path_length=0 * ones,
        time_total=0 * ones,
        n_steps=count.clone(),
        n_rejected=count.clone(),
        n_evals=count + 1,
        n_evals_total=count + 1,
        carried=tuple(x.clone() for x in carried),
    )


def advance(problem: Problem, solver: Solver, state: FlowState) -> FlowState:
    """Try one step of each active lane, then change its stage or end it where due.

    Args:
        problem: the equations of motion.
        solver: what proposes the step.
        state: the state before the step.

    Returns:
        The next state; lanes that were not active are bitwise unchanged.
    """
    params = problem.params
    end_time = problem.end_time(state.stage)
    left = end_time - state.t
    last = state.h >= left
    h = torch.where(last, left, state.h)
    proposal = solver.propose(problem, state, h)
    active = is_active(state)
    accept = active & proposal.accept
    reject = active & ~proposal.accept
    zero = torch.zeros_like(h)

    def taken(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accept, new, old)

    # 1. Size of the next step. A step that was cut to end with the stage is short for
    # that reason alone, so the size before it is kept if it was larger.
    suggested = h * proposal.factor
    next_h = taken(
        torch.where(last, torch.maximum(suggested, state.h), suggested), state.h
    )
    next_h = torch.where(reject, suggested, next_h)

    # 2. Endings. A lane is calm while its kinetic energy is below `k_stop`; the time
    # of calm starts again at each accepted step that begins or ends above it.
    step = taken(h, zero)
    moving = torch.maximum(state.kinetic, proposal.kinetic) >= params.k_stop
    calm = torch.where(accept & moving, zero, state.calm + step)
    n_evals = torch.where(active, state.n_evals + solver.num_evals, state.n_evals)
    timed_out = accept & last
    stopped = accept & ~moving & (calm >= CALM_SHARE * end_time)
    spent = active & (n_evals >= params.max_evals) & ~timed_out & ~stopped
    ended = timed_out | stopped | spent
    lost = reject & (next_h < SMALLEST_STEP)  # no step is short enough

    # 3. Stages. A lane that has explored settles, if there is time for that.
    exploring = state.stage == 0
    switch = ended & exploring & (params.end_time[1] > 0) & ~lost
    exhausted = state.exhausted | spent
    outcome = torch.where(
        exhausted, OUT_OF_BUDGET, torch.where(timed_out, OUT_OF_TIME, STOPPED)
    )
    status = torch.where(ended & ~switch, outcome, state.status)

    # 4. The energy ledger, E = E_0 - dissipated, and the counts. An accepted step adds
    # its friction work; a rejected one changes nothing but the counts.
    loss = taken(proposal.loss, state.loss)
    evals_total = state.n_evals_total + solver.num_evals
    return FlowState(
        q=torch.where(column(accept), proposal.q, state.q),
        v=torch.where(column(accept), proposal.v, state.v),
        t=torch.where(switch, zero, state.t + step),
        h=next_h,
        loss=loss,
        energy=taken(proposal.energy, state.energy),
        kinetic=taken(proposal.kinetic, state.kinetic),
        energy_initial=state.energy_initial,
        kinetic_initial=state.kinetic_initial,
        dissipated=state.dissipated + taken(proposal.dissipated, zero),
        calm=torch.where(switch, zero, calm),
        stage=torch.where(switch, 1, state.stage),
        status=torch.where(lost, DIVERGING, status),
        exhausted=exhausted,
        peak_loss=torch.maximum(state.peak_loss, loss),
        loss_explored=torch.where(exploring, loss, state.loss_explored),
        path_length=state.path_length + taken(proposal.length, zero),
        time_total=state.time_total + step,
        n_steps=state.n_steps + accept,
        n_rejected=state.n_rejected + reject,
        n_evals=torch.where(switch, 0, n_evals),
        n_evals_total=torch.where(active, evals_total, state.n_evals_total),
        carried=tuple(
            torch.where(column(accept), new, old)
            for new, old in zip(proposal.carried, state.carried, strict=True)
        ),
    )
