r"""The transition of Hamiltonian Monte Carlo: leapfrog steps, then Metropolis.

A trajectory starts with a fresh velocity (:func:`start_trajectory`), follows the
gradient (:func:`leapfrog`), is judged by how well it kept its energy
(:func:`energy_error`), and its end is accepted or not (:func:`metropolis`).
:func:`hmc_transition` puts the four together; :class:`TransitionLoop` runs it on the
ladder, as often as asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import GraphSize, Rung, Target
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.ops.derivatives import value_and_grad

__all__ = [
    "LARGEST_ERROR",
    "ChainState",
    "Trajectory",
    "TransitionLoop",
    "chain_state_at",
    "energy_error",
    "hmc_transition",
    "leapfrog",
    "metropolis",
    "start_trajectory",
]

LARGEST_ERROR = 1e3
"""Energy error beyond which a trajectory counts as divergent."""

Potential = Callable[[Tensor], Tensor]


class ChainState(NamedTuple):
    """Where the chains are.

    Attributes:
        q: positions, `(chains, dim)`.
        potential: minus the log-density there, `(chains,)`.
        grad: its gradient, `(chains, dim)`.
    """

    q: Tensor
    potential: Tensor
    grad: Tensor


class Trajectory(NamedTuple):
    """Trajectories under way, or at their end.

    Attributes:
        q: positions, `(chains, dim)`.
        velocity: `(chains, dim)`; normal with the metric's covariance at the start.
        potential: `(chains,)`.
        grad: `(chains, dim)`.
        energy: total energy at the start, `(chains,)`.
        error: energy now minus energy at the start, infinite for NaN, `(chains,)`.
    """

    q: Tensor
    velocity: Tensor
    potential: Tensor
    grad: Tensor
    energy: Tensor
    error: Tensor


def start_trajectory(
    metric: PositiveDefinite,
    chains: ChainState,
    momentum: Tensor,
    inertia: Tensor | float = 1.0,
) -> Trajectory:
    """Leave the chains' positions with a fresh velocity.

    Args:
        metric: covariance of velocities, times the inertia.
        chains: where the chains are.
        momentum: standard normal numbers, `(chains, dim)`.
        inertia: factor of the kinetic energy, `()`.

    Returns:
        The trajectories before their first step.
    """
    # |momentum|^2 / 2 is c v' Sigma^-1 v / 2, as v is the root of Sigma / c times it
    energy = chains.potential + 0.5 * momentum.square().sum(-1)
    velocity = metric.sample(momentum) / inertia**0.5
    return Trajectory(
        chains.q,
        velocity,
        chains.potential,
        chains.grad,
        energy,
        torch.zeros_like(energy),
    )


def leapfrog(
    potential: Potential,
    metric: PositiveDefinite,
    trajectory: Trajectory,
    step_size: Tensor,
    active: Tensor,
) -> Trajectory:
    r"""Make some leapfrog steps.

    In terms of the velocity `v`, the momentum times the covariance of the metric,

    .. math::
        v \leftarrow v - \tfrac{h}{2} \Sigma \nabla U(q), \quad
        q \leftarrow q + h v, \quad
        v \leftarrow v - \tfrac{h}{2} \Sigma \nabla U(q).

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        metric: covariance of velocities.
        trajectory: where it starts from.
        step_size: `(chains,)`.
        active: 1 for each step to make and 0 for each to leave out, `(steps,)`.

    Returns:
        The trajectories after the steps.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, 1206.1901, section 5.2.3.
    """
    q, v, value, grad = trajectory[:4]
    push = metric.matvec(grad)
    for i in range(len(active)):
        # a step left out has length zero, so that the graph has a fixed length
        h = (step_size * active[i]).unsqueeze(-1)
        v = v - 0.5 * h * push
        q = q + h * v
        value, grad = value_and_grad(potential, q)
        push = metric.matvec(grad)
        v = v - 0.5 * h * push
    return trajectory._replace(q=q, velocity=v, potential=value, grad=grad)


def energy_error(
    metric: PositiveDefinite, trajectory: Trajectory, inertia: Tensor | float = 1.0
) -> Trajectory:
    """Measure how far the total energy is from what it was at the start.

    Args:
        metric: covariance of velocities, times the inertia.
        trajectory: under way.
        inertia: factor of the kinetic energy, `()`.

    Returns:
        The trajectories with their error.
    """
    kinetic = 0.5 * metric.root_solve(trajectory.velocity).square().sum(-1)
    error = trajectory.potential + inertia * kinetic - trajectory.energy
    # a chain would never leave a point of infinite density, so it must not enter one
    error = torch.where(error.isnan() | (error == -torch.inf), torch.inf, error)
    return trajectory._replace(error=error)


def metropolis(
    chains: ChainState, trajectory: Trajectory, uniform: Tensor, last: Tensor
) -> ChainState:
    """Accept the end of each trajectory with probability `exp(-error)`, or stay.

    Args:
        chains: where the trajectories started.
        trajectory: their ends.
        uniform: uniform numbers, `(chains,)`.
        last: whether the trajectories end here; nothing is accepted before, `()`.

    Returns:
        The next state of the chains.
    """
    accept = last & (uniform < (-trajectory.error).exp())
    row = accept.unsqueeze(-1)  # (chains, 1)
    return ChainState(
        torch.where(row, trajectory.q, chains.q),
        torch.where(accept, trajectory.potential, chains.potential),
        torch.where(row, trajectory.grad, chains.grad),
    )


def hmc_transition(
    potential: Potential,
    metric: PositiveDefinite,
    chains: ChainState,
    trajectory: Trajectory,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    active: Tensor,
    first: Tensor,
    last: Tensor,
    inertia: Tensor | float = 1.0,
) -> tuple[ChainState, Trajectory]:
    """Make one transition of every chain, or a part of one, pure in its tensors.

    A long trajectory is cut into parts of a few steps each, so that one graph serves
    all lengths: `first` and `last` say which part this is. The `inertia` changes the
    energy alone and not the steps: these keep volume and can be followed back, so that
    any inertia leaves the density invariant.

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        metric: covariance of velocities.
        chains: where the chains are.
        trajectory: trajectories under way; not read where `first`.
        momentum: standard normal numbers for a fresh start, `(chains, dim)`.
        uniform: uniform numbers for the acceptance, `(chains,)`.
        step_size: `(chains,)`.
        active: 1 for each step to make and 0 for each to leave out, `(steps,)`.
        first: whether trajectories start here, `()`.
        last: whether they end here and are accepted or not, `()`.
        inertia: factor of the kinetic energy, `()`.

    Returns:
        The chains and the trajectories.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, 1206.1901, figure 2.
    """
    fresh = start_trajectory(metric, chains, momentum, inertia)
    trajectory = Trajectory(
        *(
            torch.where(first, new, old)
            for new, old in zip(fresh, trajectory, strict=True)
        )
    )
    trajectory = leapfrog(potential, metric, trajectory, step_size, active)
    trajectory = energy_error(metric, trajectory, inertia)
    return metropolis(chains, trajectory, uniform, last), trajectory


def chain_state_at(target: Target, q: Tensor) -> ChainState:
    """Evaluate the density where the chains are.

    Args:
        target: the density.
        q: positions, `(chains, dim)`.

    Returns:
        The state of the chains.
    """
    value, grad = value_and_grad(lambda x: -target.log_prob(x), q)
    return ChainState(q, value, grad)


class TransitionLoop:
    """Transitions of a group of chains on the rung that is due.

    Args:
        target: the density.
        chains: of the shapes to come.
        metric: of the form to come.
        unroll: leapfrog steps in one graph.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> target = Target.from_potential(lambda q: 0.5 * (q * q).sum(), 2)
        >>> chains = chain_state_at(target, torch.zeros(3, 2))
        >>> metric = Diagonal(torch.ones(2))
        >>> transition = TransitionLoop(target, chains, metric, unroll=1)
        >>> momentum, uniform = torch.ones(3, 2), torch.zeros(3)
        >>> size = torch.full((3,), 0.5)
        >>> chains, _ = transition(metric, chains, momentum, uniform, size, 2)
        >>> chains.q[0].tolist()
        [0.875, 0.875]
    """

    def __init__(
        self,
        target: Target,
        chains: ChainState,
        metric: PositiveDefinite,
        unroll: int,
    ) -> None:
        q = chains.q
        flag = torch.ones((), dtype=torch.bool, device=q.device)
        self._flags = (~flag, flag)
        self._unit = torch.ones((), dtype=q.dtype, device=q.device)
        # row i makes i + 1 steps and leaves the others out
        ones = torch.ones(unroll, unroll, dtype=q.dtype, device=q.device)
        rows = ones.tril()
        self._active = [rows[i].contiguous() for i in range(unroll)]
        self._blank = Trajectory(
            q, q, chains.potential, chains.grad, chains.potential, chains.potential
        )
        self.unroll = unroll
        self._lifted = target.lift(
            ("hmc", type(metric), unroll),
            lambda target, *inputs: hmc_transition(
                lambda x: -target.log_prob(x), *inputs
            ),
            "a step of HMC",
        )
        self._call = self._lifted.specialise(
            target.data,
            metric,
            chains,
            self._blank,
            q,
            chains.potential,
            chains.potential,
            self._active[0],
            flag,
            flag,
            self._unit,
            rung=target.rung,
        )

    @property
    def rung(self) -> Rung:
        """Rung that the steps run on."""
        return self._lifted.rung

    @property
    def graph(self) -> GraphSize:
        """Size of the graph of the steps."""
        return self._lifted.size._replace(steps=self.unroll)

    def __call__(
        self,
        metric: PositiveDefinite,
        chains: ChainState,
        momentum: Tensor,
        uniform: Tensor,
        step_size: Tensor,
        num_steps: int,
        inertia: Tensor | None = None,
    ) -> tuple[ChainState, Trajectory]:
        """Make one transition of `num_steps` leapfrog steps.

        Args:
            metric: covariance of velocities.
            chains: where the chains are.
            momentum: standard normal numbers, `(chains, dim)`.
            uniform: uniform numbers for the acceptance, `(chains,)`.
            step_size: `(chains,)`.
            num_steps: at least 1.
            inertia: factor of the kinetic energy, `()`; 1 if None.

        Returns:
            The chains after the transition, and the ends of their trajectories.
        """
        trajectory, no, yes = self._blank, *self._flags
        inertia = self._unit if inertia is None else inertia
        done = 0
        while done < num_steps:
            part = min(self.unroll, num_steps - done)
            chains, trajectory = self._call(
                metric,
                chains,
                trajectory,
                momentum,
                uniform,
                step_size,
                self._active[part - 1],
                yes if done == 0 else no,
                yes if done + part == num_steps else no,
                inertia,
            )
            done += part
        return chains, trajectory
