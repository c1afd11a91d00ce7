"""One transition of every chain: leapfrog steps, then Metropolis."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Rung, Target
from pyro_geo.infer.mcmc.hmc.metric import Metric, accelerate, colour, kind_of, whiten
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["Chains", "Flight", "Stepper", "advance", "chains_at"]

LARGEST_ERROR = 1e3  # energy error beyond which a trajectory counts as divergent


class Chains(NamedTuple):
    """Where the chains are.

    Attributes:
        q: positions, `(chains, dim)`.
        potential: minus the log-density there, `(chains,)`.
        grad: its gradient, `(chains, dim)`.
    """

    q: Tensor
    potential: Tensor
    grad: Tensor


class Flight(NamedTuple):
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


def advance(
    potential: Callable[[Tensor], Tensor],
    metric: Metric,
    chains: Chains,
    flight: Flight,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    active: Tensor,
    first: Tensor,
    last: Tensor,
) -> tuple[Chains, Flight]:
    r"""Make some leapfrog steps of every chain, pure in its tensors.

    In terms of the velocity `v`, the momentum times the covariance of the metric,

    .. math::
        v \leftarrow v - \tfrac{h}{2} \Sigma \nabla U(q), \quad
        q \leftarrow q + h v, \quad
        v \leftarrow v - \tfrac{h}{2} \Sigma \nabla U(q).

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        metric: the metric.
        chains: where the chains are.
        flight: trajectories under way; not read where `first`.
        momentum: standard normal numbers for a fresh start, `(chains, dim)`.
        uniform: numbers for the acceptance, `(chains,)`.
        step_size: `(chains,)`.
        active: 1 for each step to make and 0 for each to leave out, `(steps,)`.
        first: whether trajectories start here, `()`.
        last: whether they end here and are accepted or not, `()`.

    Returns:
        The chains and the trajectories.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, 1206.1901, section 5.2.3.
    """
    kinetic = 0.5 * momentum.square().sum(-1)
    energy = torch.where(first, chains.potential + kinetic, flight.energy)
    q = torch.where(first, chains.q, flight.q)
    v = torch.where(first, colour(metric, momentum), flight.velocity)
    value = torch.where(first, chains.potential, flight.potential)
    grad = torch.where(first, chains.grad, flight.grad)
    push = accelerate(metric, grad)
    for i in range(len(active)):
        h = (step_size * active[i]).unsqueeze(-1)
        v = v - 0.5 * h * push
        q = q + h * v
        value, grad = value_and_grad(potential, q)
        push = accelerate(metric, grad)
        v = v - 0.5 * h * push
    error = value + 0.5 * whiten(metric, v).square().sum(-1) - energy
    # an infinite density is no place to stay
    error = torch.where(error.isnan() | (error == -torch.inf), torch.inf, error)
    accept = last & (uniform < (-error).exp())
    row = accept.unsqueeze(-1)
    new = Chains(
        torch.where(row, q, chains.q),
        torch.where(accept, value, chains.potential),
        torch.where(row, grad, chains.grad),
    )
    return new, Flight(q, v, value, grad, energy, error)


def chains_at(target: Target, q: Tensor) -> Chains:
    """Evaluate the density where the chains are.

    Args:
        target: the density.
        q: positions, `(chains, dim)`.

    Returns:
        The chains.
    """
    value, grad = value_and_grad(lambda x: -target.log_prob(x), q)
    return Chains(q, value, grad)


class Stepper:
    """Transitions of a group of chains on the rung that is due.

    Args:
        target: the density.
        chains: of the shapes to come.
        metric: of the kind to come.
        unroll: leapfrog steps in one graph.
    """

    def __init__(
        self, target: Target, chains: Chains, metric: Metric, unroll: int
    ) -> None:
        q = chains.q
        flag = torch.ones((), dtype=torch.bool, device=q.device)
        self._flags = (~flag, flag)
        ones = torch.ones(unroll, unroll, dtype=q.dtype, device=q.device)
        rows = ones.tril()
        self._active = [rows[i].contiguous() for i in range(unroll)]
        self._blank = Flight(
            q, q, chains.potential, chains.grad, chains.potential, chains.potential
        )
        self.unroll = unroll
        self._lifted = target.lift(
            ("hmc", kind_of(metric), unroll),
            lambda target, *inputs: advance(lambda x: -target.log_prob(x), *inputs),
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
            rung=target.rung,
        )

    @property
    def rung(self) -> Rung:
        """Rung that the steps run on."""
        return self._lifted.rung

    def __call__(
        self,
        metric: Metric,
        chains: Chains,
        momentum: Tensor,
        uniform: Tensor,
        step_size: Tensor,
        num_steps: int,
    ) -> tuple[Chains, Flight]:
        """Make one transition of `num_steps` leapfrog steps."""
        flight, no, yes = self._blank, *self._flags
        done = 0
        while done < num_steps:
            now = min(self.unroll, num_steps - done)
            chains, flight = self._call(
                metric,
                chains,
                flight,
                momentum,
                uniform,
                step_size,
                self._active[now - 1],
                yes if done == 0 else no,
                yes if done + now == num_steps else no,
            )
            done += now
        return chains, flight
