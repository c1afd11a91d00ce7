r"""State of the dissipative flow on a loss surface, and the rules for its steps.

A particle of mass one slides on the surface :math:`(\theta, \alpha L(\theta))` under
gravity and friction. With :math:`d = \nabla L`, :math:`H` the Hessian,
:math:`W^2 = 1 + \alpha^2 |d|^2` and :math:`K = (|v|^2 + \alpha^2 (d \cdot v)^2)/2`

.. math:: \ddot\theta = -[\alpha^2 v^T H v + g]\, d / W^2 - f(K)\, v,
   \qquad f(K) = \mu_0 + \mu_1 \sqrt K,

so that the energy :math:`E = K + g L` only falls: :math:`\dot E = -2 f(K) K`. An
integrator proposes a step for every lane (:class:`Proposal`) and :func:`advance`
accepts or rejects it, keeps the ledger of that balance, switches a lane that has
explored to settling, and ends it.

Everything has a leading axis of lanes, which do not see each other. Finished lanes
ride along untouched, so a batch of one fixed size serves any number of trajectories.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad
from pyro_geo.ops.lanes import column, dot

__all__ = [
    "ACTIVE",
    "DIVERGING",
    "OUT_OF_BUDGET",
    "OUT_OF_TIME",
    "STOPPED",
    "FlowParams",
    "FlowState",
    "Proposal",
    "advance",
    "clip_step",
    "flow_params",
    "init_state",
    "is_active",
    "kinetic_energy",
    "stage_values",
    "start_state",
]

ACTIVE, OUT_OF_TIME, STOPPED, OUT_OF_BUDGET, DIVERGING = range(5)

# A first step of this share of the stage; rejections cut it to size in a few tries.
FIRST_STEP = 0.02
# A particle counts as stopped after this share of the stage below `k_stop`: at a
# turning point the kinetic energy is small too, but not for long.
CALM_SHARE = 0.05
SMALLEST_STEP = 1e-12


class FlowParams(NamedTuple):
    """What all lanes share; entry 0 of a pair is for exploring, entry 1 for settling.

    Attributes:
        alpha: embedding scale of the surface, `()`; 0 is Euclidean.
        gravity: weight of the loss in the energy, `()`.
        step_tol: allowed energy defect as a share of the step's friction work, `()`.
        energy_atol: allowed energy defect over the whole run, `()`.
        k_stop: kinetic energy below which a stage ends early, `()`; 0 never.
        max_evals: model evaluations allowed per stage, `()`, integer.
        end_time: length of each stage, `(2,)`; 0 skips it.
        mu_linear: friction per time, `(2,)`.
        mu_quadratic: friction per length, `(2,)`.
    """

    alpha: Tensor
    gravity: Tensor
    step_tol: Tensor
    energy_atol: Tensor
    k_stop: Tensor
    max_evals: Tensor
    end_time: Tensor
    mu_linear: Tensor
    mu_quadratic: Tensor


class FlowState(NamedTuple):
    """Where every lane is and what it has gone through.

    Attributes:
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.
        t: time within the stage, `(lanes,)` as are all below.
        h: size of the next step.
        loss: loss here.
        energy: kinetic energy plus gravity times loss, here.
        kinetic: kinetic energy here.
        energy_initial: energy at the start.
        kinetic_initial: kinetic energy at the start.
        dissipated: friction work so far, both stages.
        calm: time spent below `k_stop` without a break.
        stage: 0 exploring, 1 settling, integer.
        status: 0 active, 1 out of time, 2 stopped, 3 out of evaluations in either
            stage, 4 diverging; integer.
        overdrawn: an earlier stage ran out of evaluations, boolean.
        peak_loss: largest loss at any accepted step.
        loss_explored: loss where exploring ended (or is now).
        path_length: length of the path in parameter space.
        time_total: integration time of both stages.
        n_steps: accepted steps, integer.
        n_rejected: rejected steps, integer.
        n_evals: model evaluations in this stage, integer.
        n_evals_total: model evaluations in all, integer.
    """

    q: Tensor
    v: Tensor
    t: Tensor
    h: Tensor
    loss: Tensor
    energy: Tensor
    kinetic: Tensor
    energy_initial: Tensor
    kinetic_initial: Tensor
    dissipated: Tensor
    calm: Tensor
    stage: Tensor
    status: Tensor
    overdrawn: Tensor
    peak_loss: Tensor
    loss_explored: Tensor
    path_length: Tensor
    time_total: Tensor
    n_steps: Tensor
    n_rejected: Tensor
    n_evals: Tensor
    n_evals_total: Tensor


class Proposal(NamedTuple):
    """What an integrator offers for one step of every lane.

    Attributes:
        q: positions at the end, `(lanes, dim)`.
        v: velocities at the end, `(lanes, dim)`.
        loss: loss at the end, `(lanes,)` as are all below.
        energy: energy at the end.
        kinetic: kinetic energy at the end.
        dissipated: friction work of the step.
        length: length of the step in parameter space.
        accept: whether the step is good enough, boolean.
        factor: by how much the size of the step should change.
    """

    q: Tensor
    v: Tensor
    loss: Tensor
    energy: Tensor
    kinetic: Tensor
    dissipated: Tensor
    length: Tensor
    accept: Tensor
    factor: Tensor


def flow_params(
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
    alpha: float = 1.0,
    gravity: float = 1.0,
    step_tol: float = 0.3,
    energy_atol: float = 1e-2,
    k_stop: float = 0.0,
    max_evals: int = 20_000,
    end_time: tuple[float, float] = (2.0, 0.0),
    mu_linear: tuple[float, float] = (0.0, 0.0),
    mu_quadratic: tuple[float, float] = (0.0, 0.0),
) -> FlowParams:
    """Turn numbers into the tensors that a step takes.

    Args:
        dtype: floating dtype of the run.
        device: device of the run.
        alpha: embedding scale; 0 is Euclidean.
        gravity: weight of the loss in the energy.
        step_tol: allowed energy defect as a share of the friction work.
        energy_atol: allowed energy defect over the whole run.
        k_stop: kinetic energy below which a stage ends early; 0 never.
        max_evals: model evaluations allowed per stage.
        end_time: lengths of the two stages.
        mu_linear: friction per time in the two stages.
        mu_quadratic: friction per length in the two stages.

    Returns:
        The parameters, unchecked; the driver checks what users pass.

    Example:
        >>> flow_params(dtype=torch.float64, end_time=(2.0, 6.0)).end_time.tolist()
        [2.0, 6.0]
    """

    def real(x: float | tuple[float, float]) -> Tensor:
        return torch.tensor(x, dtype=dtype, device=device)

    return FlowParams(
        alpha=real(alpha),
        gravity=real(gravity),
        step_tol=real(step_tol),
        energy_atol=real(energy_atol),
        k_stop=real(k_stop),
        max_evals=torch.tensor(max_evals, device=device),
        end_time=real(end_time),
        mu_linear=real(mu_linear),
        mu_quadratic=real(mu_quadratic),
    )


def is_active(state: FlowState) -> Tensor:
    """Tell which lanes are still under way, `(lanes,)`."""
    return state.status == ACTIVE


def kinetic_energy(v: Tensor, d: Tensor, alpha: Tensor, *, euclidean: bool) -> Tensor:
    """Half the squared speed on the surface, `(lanes,)`."""
    speed2 = dot(v, v)
    if euclidean:
        return 0.5 * speed2
    return 0.5 * (speed2 + (alpha * dot(d, v)) ** 2)


def stage_values(params: FlowParams, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pick every lane's end time, linear and quadratic friction."""
    settling = stage == 1
    pairs = (params.end_time, params.mu_linear, params.mu_quadratic)
    end_time, mu0, mu1 = (torch.where(settling, p[1], p[0]) for p in pairs)
    return end_time, mu0, mu1


def init_state(
    loss: BatchedLoss, q: Tensor, v: Tensor, params: FlowParams, *, euclidean: bool
) -> FlowState:
    """Put particles at their start, with one evaluation of the model.

    Lanes whose energy is not finite are born diverging, so that they never disturb
    the others.

    Args:
        loss: block-separable loss, `(lanes, dim) -> (lanes,)`.
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.
        params: what all lanes share.
        euclidean: whether to leave the surface's metric out (`alpha` 0).

    Returns:
        The state before the first step. No two fields share memory.

    Example:
        >>> params = flow_params(dtype=torch.float32)
        >>> q, v = torch.ones(1, 1), 2 * torch.ones(1, 1)
        >>> state = init_state(lambda x: x.sum(-1), q, v, params, euclidean=True)
        >>> state.kinetic.item(), state.energy.item()
        (2.0, 3.0)
    """
    value, d = value_and_grad(loss, q)
    kinetic = kinetic_energy(v, d, params.alpha, euclidean=euclidean)
    return start_state(params, q, v, value, kinetic)


def start_state(
    params: FlowParams, q: Tensor, v: Tensor, value: Tensor, kinetic: Tensor
) -> FlowState:
    """Assemble the state before the first step from one evaluation's results."""
    energy = kinetic + params.gravity * value
    ones = torch.ones_like(value)
    end = params.end_time.to(ones)
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
        overdrawn=count > 0,
        peak_loss=value.clone(),
        loss_explored=value.clone(),
        path_length=0 * ones,
        time_total=0 * ones,
        n_steps=count.clone(),
        n_rejected=count.clone(),
        n_evals=count + 1,
        n_evals_total=count + 1,
    )


def clip_step(state: FlowState, end_time: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the step to what is left of the stage; also tell whether it is the last."""
    left = end_time - state.t
    last = state.h >= left
    return torch.where(last, left, state.h), last


def advance(
    params: FlowParams,
    state: FlowState,
    proposal: Proposal,
    h: Tensor,
    last: Tensor,
    evals: int,
) -> FlowState:
    """Accept or reject a proposal, lane by lane, and see to stages and endings.

    Args:
        params: what all lanes share.
        state: the state before the step.
        proposal: the step offered.
        h: size of that step, `(lanes,)`.
        last: whether it reaches the end of the stage, boolean, `(lanes,)`.
        evals: model evaluations it took.

    Returns:
        The next state; lanes that were not active are bitwise unchanged.
    """
    active = state.status == ACTIVE
    accept = active & proposal.accept
    reject = active & ~proposal.accept
    zero = torch.zeros_like(h)

    def moved(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accept, new, old)

    loss = moved(proposal.loss, state.loss)
    step = moved(h, zero)
    t = state.t + step
    n_evals = torch.where(active, state.n_evals + evals, state.n_evals)
    # A step cut to the end of a stage says nothing against the longer one before.
    grown = h * proposal.factor
    next_h = moved(torch.where(last, torch.maximum(grown, state.h), grown), state.h)
    next_h = torch.where(reject, grown, next_h)

    restless = torch.maximum(state.kinetic, proposal.kinetic) >= params.k_stop
    calm = torch.where(accept & restless, zero, state.calm + step)
    end_time = torch.where(state.stage == 1, params.end_time[1], params.end_time[0])
    timed_out = accept & last
    stopped = accept & ~restless & (calm >= CALM_SHARE * end_time)
    spent = active & (n_evals >= params.max_evals) & ~timed_out & ~stopped
    ended = timed_out | stopped | spent
    lost = reject & (next_h < SMALLEST_STEP)

    exploring = state.stage == 0
    switch = ended & exploring & (params.end_time[1] > 0) & ~lost
    overdrawn = state.overdrawn | spent
    outcome = torch.where(
        overdrawn, OUT_OF_BUDGET, torch.where(timed_out, OUT_OF_TIME, STOPPED)
    )
    status = torch.where(ended & ~switch, outcome, state.status)
    return FlowState(
        q=torch.where(column(accept), proposal.q, state.q),
        v=torch.where(column(accept), proposal.v, state.v),
        t=torch.where(switch, zero, t),
        h=next_h,
        loss=loss,
        energy=moved(proposal.energy, state.energy),
        kinetic=moved(proposal.kinetic, state.kinetic),
        energy_initial=state.energy_initial,
        kinetic_initial=state.kinetic_initial,
        dissipated=state.dissipated + moved(proposal.dissipated, zero),
        calm=torch.where(switch, zero, calm),
        stage=torch.where(switch, 1, state.stage),
        status=torch.where(lost, DIVERGING, status),
        overdrawn=overdrawn,
        peak_loss=torch.maximum(state.peak_loss, loss),
        loss_explored=torch.where(exploring, loss, state.loss_explored),
        path_length=state.path_length + moved(proposal.length, zero),
        time_total=state.time_total + step,
        n_steps=state.n_steps + accept,
        n_rejected=state.n_rejected + reject,
        n_evals=torch.where(switch, 0, n_evals),
        n_evals_total=torch.where(
            active, state.n_evals_total + evals, state.n_evals_total
        ),
    )
