"""State of the dissipative flow: every lane's position and the sums along its path.

Everything has a leading axis of lanes, which are independent. Finished lanes
stay as they are, so a batch of one fixed size serves any number of trajectories.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = [
    "ACTIVE",
    "DIVERGING",
    "OUT_OF_BUDGET",
    "OUT_OF_TIME",
    "STOPPED",
    "FlowState",
    "is_active",
]

ACTIVE, OUT_OF_TIME, STOPPED, OUT_OF_BUDGET, DIVERGING = range(5)


class FlowState(NamedTuple):
    """Position of every lane and the sums along its path.

    Attributes:
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.
        t: time within the stage, `(lanes,)` as are all below.
        h: size of the next step.
        loss: loss at `q`.
        energy: kinetic energy plus gravity times loss, at `q` and `v`.
        kinetic: kinetic energy at `q` and `v`.
        energy_initial: energy at the start.
        kinetic_initial: kinetic energy at the start.
        dissipated: friction work so far, both stages.
        calm: time since the kinetic energy was last above `k_stop`.
        stage: 0 exploring, 1 settling, integer.
        status: 0 active, 1 out of time, 2 stopped, 3 out of evaluations in either
            stage, 4 diverging; integer.
        exhausted: an earlier stage ran out of evaluations, boolean.
        peak_loss: largest loss at any accepted step.
        loss_explored: loss where exploring ended, or the present one.
        path_length: length of the path in parameter space.
        time_total: integration time of both stages.
        n_steps: accepted steps, integer.
        n_rejected: rejected steps, integer.
        n_evals: model evaluations in this stage, integer.
        n_evals_total: model evaluations in all, integer.
        carried: what the solver keeps from one step to the next, tensors with a
            leading axis of lanes; empty for most solvers.
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
    exhausted: Tensor
    peak_loss: Tensor
    loss_explored: Tensor
    path_length: Tensor
    time_total: Tensor
    n_steps: Tensor
    n_rejected: Tensor
    n_evals: Tensor
    n_evals_total: Tensor
    carried: tuple[Tensor, ...]


def is_active(state: FlowState) -> Tensor:
    """Say which lanes are still under way, `(lanes,)`."""
    return state.status == ACTIVE
