"""What a dissipative flow returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.state import (
    DIVERGING,
    OUT_OF_TIME,
    STOPPED,
    FlowState,
)

__all__ = ["FlowResult", "flow_result"]


class FlowResult(NamedTuple):
    """End point of every trajectory and the sums along its path.

    Attributes:
        theta: end points, `(n, dim)`.
        velocity: velocities there, `(n, dim)`.
        loss: loss there, `(n,)` as are all below.
        loss_explored: loss where exploring ended.
        loss_settled: loss where settling ended, here the same as `loss`; a polished
            draw has both.
        energy: kinetic energy plus gravity times loss, at the end.
        energy_initial: the same at the start.
        energy_dissipated: friction work.
        energy_error: `energy - energy_initial + energy_dissipated`, which is zero for
            an exact solution, relative to the larger of the initial kinetic energy
            and the friction work.
        kinetic: kinetic energy at the end.
        peak_loss: largest loss along the way.
        path_length: length of the path in parameter space.
        integration_time: time integrated, both stages.
        n_steps: accepted steps.
        n_rejected: rejected steps.
        n_evals: model evaluations.
        step_size: mean accepted step.
        finished: whether both stages ended by their time or at rest.
        diverging: whether no step was small enough; the trajectory is then frozen at
            its last finite point.
    """

    theta: Tensor
    velocity: Tensor
    loss: Tensor
    loss_explored: Tensor
    loss_settled: Tensor
    energy: Tensor
    energy_initial: Tensor
    energy_dissipated: Tensor
    energy_error: Tensor
    kinetic: Tensor
    peak_loss: Tensor
    path_length: Tensor
    integration_time: Tensor
    n_steps: Tensor
    n_rejected: Tensor
    n_evals: Tensor
    step_size: Tensor
    finished: Tensor
    diverging: Tensor


def flow_result(state: FlowState) -> FlowResult:
    """Turn a final state into a result.

    Args:
        state: final states, leading axis `n`.

    Returns:
        The result, leading axis `n`.
    """
    tiny = torch.finfo(state.q.dtype).tiny
    # E_end = E_0 - friction work holds exactly for the equations of motion
    missed = state.energy - state.energy_initial + state.dissipated
    scale = torch.maximum(state.kinetic_initial, state.dissipated).clamp(min=tiny)
    ended = (state.status == OUT_OF_TIME) | (state.status == STOPPED)
    return FlowResult(
        theta=state.q,
        velocity=state.v,
        loss=state.loss,
        loss_explored=state.loss_explored,
        loss_settled=state.loss,
        energy=state.energy,
        energy_initial=state.energy_initial,
        energy_dissipated=state.dissipated,
        energy_error=missed / scale,
        kinetic=state.kinetic,
        peak_loss=state.peak_loss,
        path_length=state.path_length,
        integration_time=state.time_total,
        n_steps=state.n_steps,
        n_rejected=state.n_rejected,
        n_evals=state.n_evals_total,
        step_size=state.time_total / state.n_steps.clamp(min=1),
        finished=ended,
        diverging=state.status == DIVERGING,
    )
