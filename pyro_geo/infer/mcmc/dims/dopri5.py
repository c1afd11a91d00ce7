"""Dormand-Prince steps of the dissipative flow, every lane with its own step size.

Better than the splitting step for tight tolerances on curved surfaces. The friction
work is integrated as one more component, so that the energy ledger is reported here
too, but it does not control the step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.state import (
    FlowParams,
    FlowState,
    Proposal,
    advance,
    clip_step,
    kinetic_energy,
    stage_values,
    start_state,
)
from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad, value_grad_hvp
from pyro_geo.ops.lanes import column, dot

__all__ = ["DopriState", "dopri5_init", "dopri5_is_active", "dopri5_step"]

# Dormand and Prince (1980), RK5(4)7M. The last row is also the fifth-order solution.
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth minus fourth order.
ERROR = (
    35 / 384 - 5179 / 57600,
    0.0,
    500 / 1113 - 7571 / 16695,
    125 / 192 - 393 / 640,
    -2187 / 6784 + 92097 / 339200,
    11 / 84 - 187 / 2100,
    -1 / 40,
)

# The step size a curved surface allows changes from one step to the next. Asking for
# less and growing slowly saves more in rejected steps than it costs: measured on a
# network at `alpha` 1, a sixth of the evaluations at equal energy error.
SAFETY, GROWTH = 0.7, 1.6


class DopriState(NamedTuple):
    """The flow's state and the acceleration at it, which the next step reuses.

    Attributes:
        flow: where every lane is.
        accel: acceleration without friction, `(lanes, dim)`; friction is added by
            the step, because it changes when a lane goes on to settle.
    """

    flow: FlowState
    accel: Tensor


class _Point(NamedTuple):
    loss: Tensor
    kinetic: Tensor
    accel: Tensor


def _evaluate(
    loss: BatchedLoss, params: FlowParams, q: Tensor, v: Tensor, *, euclidean: bool
) -> _Point:
    """Evaluate loss, kinetic energy and frictionless acceleration."""
    if euclidean:
        value, d = value_and_grad(loss, q)
        kinetic = kinetic_energy(v, d, params.alpha, euclidean=True)
        return _Point(value, kinetic, -params.gravity * d)
    value, d, product = value_grad_hvp(loss, q, v)
    alpha2 = params.alpha**2
    pull = (alpha2 * dot(v, product) + params.gravity) / (1.0 + alpha2 * dot(d, d))
    kinetic = kinetic_energy(v, d, params.alpha, euclidean=False)
    return _Point(value, kinetic, -column(pull) * d)


def dopri5_init(
    loss: BatchedLoss, q: Tensor, v: Tensor, params: FlowParams, *, euclidean: bool
) -> DopriState:
    """Put particles at their start, with one evaluation of the model.

    Args:
        loss: block-separable loss, `(lanes, dim) -> (lanes,)`.
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.
        params: what all lanes share.
        euclidean: whether to leave the surface's metric out (`alpha` 0).

    Returns:
        The state before the first step.

    Example:
        >>> from pyro_geo.infer.mcmc.dims.flow import flow_params
        >>> params = flow_params(dtype=torch.float32)
        >>> q, v = torch.ones(1, 1), torch.zeros(1, 1)
        >>> dopri5_init(lambda x: x.sum(-1), q, v, params, euclidean=True).accel
        tensor([[-1.]])
    """
    point = _evaluate(loss, params, q, v, euclidean=euclidean)
    return DopriState(
        flow=start_state(params, q, v, point.loss, point.kinetic), accel=point.accel
    )


def dopri5_is_active(state: DopriState) -> Tensor:
    """Tell which lanes are still under way, `(lanes,)`."""
    return state.flow.status == 0


def _combine(rows: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Add up slopes with their weights."""
    total = rows[0] * slopes[0]
    for weight, slope in zip(rows[1:], slopes[1:], strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total


def dopri5_step(
    loss: BatchedLoss,
    params: FlowParams,
    state: DopriState,
    *,
    euclidean: bool,
    rtol: float = 1e-7,
    atol: float = 1e-6,
) -> DopriState:
    """Advance every active lane by one Dormand-Prince step of its own size.

    A step is kept if the root mean square over the lane's positions and velocities
    of the error estimate, each in units of `atol + rtol * size`, is at most one.

    Args:
        loss: block-separable loss, `(lanes, dim) -> (lanes,)`.
        params: what all lanes share; `step_tol` and `energy_atol` are not read.
        state: the state before the step.
        euclidean: whether to leave the surface's metric out (`alpha` 0); then no
            Hessian-vector product is taken and `params.alpha` is not read.
        rtol: relative error allowed in one step.
        atol: absolute error allowed in one step.

    Returns:
        The next state; lanes that were not active are bitwise unchanged.

    References:
        Dormand and Prince (1980), A family of embedded Runge-Kutta formulae.

    Example:
        >>> from pyro_geo.infer.mcmc.dims.flow import flow_params
        >>> params = flow_params(dtype=torch.float64)
        >>> def loss(x):
        ...     return x.sum(-1)
        >>> q, v = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> state = dopri5_init(loss, q, v, params, euclidean=True)
        >>> flow = dopri5_step(loss, params, state, euclidean=True).flow
        >>> bool((flow.q - (1 - flow.t**2 / 2)).abs() < 1e-15), flow.n_evals.item()
        (True, 7)
    """
    flow, dim = state.flow, state.flow.q.shape[-1]
    end_time, mu0, mu1 = stage_values(params, flow.stage)
    h, last = clip_step(flow, end_time)
    step = column(h)

    def slope(y: Tensor, point: _Point) -> Tensor:
        v, friction = y[:, dim : 2 * dim], mu0 + mu1 * point.kinetic.sqrt()
        force = point.accel - column(friction) * v
        return torch.cat([v, force, column(2.0 * friction * point.kinetic)], -1)

    # Position, velocity and friction work in one tensor, `(lanes, 2 dim + 1)`.
    start = torch.cat([flow.q, flow.v, column(torch.zeros_like(h))], -1)
    y, point = start, _Point(flow.loss, flow.kinetic, state.accel)
    slopes = [slope(y, point)]
    for row in STAGES:
        y = start + step * _combine(row, slopes)
        q, v = y[:, :dim], y[:, dim : 2 * dim]
        point = _evaluate(loss, params, q, v, euclidean=euclidean)
        slopes.append(slope(y, point))

    error = (step * _combine(ERROR, slopes))[:, : 2 * dim]
    size = torch.maximum(start.abs(), y.abs())[:, : 2 * dim]
    ratio = (error / (atol + rtol * size)).square().mean(-1).sqrt()
    energy = point.kinetic + params.gravity * point.loss
    finite = torch.isfinite(ratio) & torch.isfinite(energy)
    shrunk = SAFETY * (ratio + torch.finfo(h.dtype).tiny) ** -0.2
    speed0, speed1 = (dot(x, x).sqrt() for x in (flow.v, y[:, dim : 2 * dim]))
    proposal = Proposal(
        q=y[:, :dim],
        v=y[:, dim : 2 * dim],
        loss=point.loss,
        energy=energy,
        kinetic=point.kinetic,
        dissipated=y[:, 2 * dim],
        length=0.5 * h * (speed0 + speed1),
        accept=finite & (ratio <= 1.0),
        factor=torch.where(finite, shrunk.clamp(0.2, GROWTH), 0.2),
    )
    moved = column((flow.status == 0) & proposal.accept)
    return DopriState(
        flow=advance(params, flow, proposal, h, last, len(STAGES)),
        accel=torch.where(moved, point.accel, state.accel),
    )
