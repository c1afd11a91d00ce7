"""A minimal kernel for tests: HMC with a fixed step size and no adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import known_options
from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block, ChainGroup, Warmup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["FixedHMC", "FixedHMCState", "leapfrog_transition"]

_LARGEST_ERROR = 1e3  # energy error beyond which a transition counts as divergent


class FixedHMCState(NamedTuple):
    """Positions with their potential and gradient.

    Attributes:
        q: positions, `(chains, dim)`.
        potential: minus the log-density there, `(chains,)`.
        grad: its gradient, `(chains, dim)`.
    """

    q: Tensor
    potential: Tensor
    grad: Tensor


class FixedHMCInfo(NamedTuple):
    """What happened in one transition, `(chains,)` each."""

    energy: Tensor
    energy_error: Tensor
    acceptance_rate: Tensor
    diverging: Tensor


def leapfrog(
    potential: Callable[[Tensor], Tensor],
    state: FixedHMCState,
    momentum: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[FixedHMCState, Tensor]:
    """Follow a trajectory of every chain to its end.

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        state: where the chains are.
        momentum: momenta, `(chains, dim)`.
        step_size: `()` or `(chains, 1)`.
        num_steps: leapfrog steps.

    Returns:
        Where the trajectories end, and with what momentum.
    """
    q, value, grad, p = state.q, state.potential, state.grad, momentum
    for _ in range(num_steps):
        p = p - 0.5 * step_size * grad
        q = q + step_size * p
        value, grad = value_and_grad(potential, q)
        p = p - 0.5 * step_size * grad
    return state._replace(q=q, potential=value, grad=grad), p


def choose(first: Tensor, one: FixedHMCState, other: FixedHMCState) -> FixedHMCState:
    """Take each chain's state from `one` where `first` is true, else from `other`."""
    row = first.unsqueeze(-1)
    return one._replace(
        q=torch.where(row, one.q, other.q),
        potential=torch.where(first, one.potential, other.potential),
        grad=torch.where(row, one.grad, other.grad),
    )


def kinetic_energy(momentum: Tensor) -> Tensor:
    """Kinetic energy of each chain, `(chains,)`."""
    return 0.5 * momentum.square().sum(-1)


def leapfrog_transition(
    potential: Callable[[Tensor], Tensor],
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[FixedHMCState, FixedHMCInfo]:
    r"""Make one transition of every chain: leapfrog, then Metropolis.

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        state: where the chains are.
        momentum: standard normal momenta, `(chains, dim)`.
        uniform: uniform numbers for the acceptance, `(chains,)`.
        step_size: `()`.
        num_steps: leapfrog steps.

    Returns:
        The next state and what happened.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, 1206.1901, figure 2.
    """
    end, p = leapfrog(potential, state, momentum, step_size, num_steps)
    start = state.potential + kinetic_energy(momentum)
    error = end.potential + kinetic_energy(p) - start
    error = torch.where(error.isnan(), torch.inf, error)
    new = choose(uniform < (-error).exp(), end, state)
    rate = (-error).exp().clamp(max=1.0)
    return new, FixedHMCInfo(start, error, rate, error > _LARGEST_ERROR)


class FixedHMC(Kernel):
    """Hamiltonian Monte Carlo with everything fixed by hand.

    It proves the runner and serves as a reference; for work use an adaptive sampler.

    Args:
        model: a Pyro model or a target.
        step_size: leapfrog step.
        num_steps: leapfrog steps per transition.
        transition: the transition; broken twins replace it.

    Example:
        >>> from pyro_geo.infer import MCMC
        >>> target = Target.from_potential(lambda q: 0.5 * q.square().sum(), 2)
        >>> kernel = FixedHMC(target, step_size=0.5, num_steps=4)
        >>> fit = MCMC(kernel, 100, num_chains=50, seed=0, progress_bar=False).run()
        >>> fit.get_samples()["q"].shape
        torch.Size([5000, 2])
    """

    statistics = (
        "lp",
        "energy",
        "energy_error",
        "acceptance_rate",
        "n_steps",
        "diverging",
    )
    settings = ("step_size", "num_steps", "transition")
    state_type = FixedHMCState
    draws_per_block = 25

    @known_options
    def __init__(
        self,
        model: Callable[..., Any] | Target,
        *,
        step_size: float = 0.1,
        num_steps: int = 10,
        transition: Callable[
            ..., tuple[FixedHMCState, FixedHMCInfo]
        ] = leapfrog_transition,
    ) -> None:
        super().__init__(model)
        self.step_size = step_size
        self.num_steps = num_steps
        self.transition = transition

    def start(self, target: Target, group: ChainGroup) -> Warmup:
        """Start every chain from its own stream."""
        q = group.starts(target)
        value, grad = value_and_grad(lambda q: -target.log_prob(q), q)
        return group.burn_in(FixedHMCState(q, value, grad))

    def block(
        self,
        target: Target,
        state: FixedHMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        dtype = target.dtype
        momenta = noise.normal(draws, target.dim, dtype=dtype).to(target.device)
        uniforms = noise.uniform(draws, dtype=dtype).to(target.device)
        size = torch.tensor(self.step_size, dtype=dtype)
        lifted = target.lift(
            ("fixed_hmc", self.transition, self.num_steps),
            lambda data, state, momentum, uniform, size: self.transition(
                lambda q: -target.bind(data).log_prob(q),
                state,
                momentum,
                uniform,
                size,
                self.num_steps,
            ),
            "a transition of HMC",
        )
        step = lifted.specialise(
            target.data, state, momenta[:, 0], uniforms[:, 0], size, rung=target.rung
        )
        positions, rows = [], []
        for i in range(draws):
            state, info = step(state, momenta[:, i], uniforms[:, i], size)
            positions.append(state.q)
            rows.append((-state.potential, *info))
        lp, energy, error, rate, diverging = (
            torch.stack(column, 1) for column in zip(*rows, strict=True)
        )
        stats = {
            "lp": lp,
            "energy": energy,
            "energy_error": error,
            "acceptance_rate": rate,
            "n_steps": torch.full_like(lp, self.num_steps, dtype=torch.long),
            "diverging": diverging,
        }
        return Block(state, torch.stack(positions, 1), stats, draws, lifted.rung)

    def describe(self, states: Sequence[FixedHMCState]) -> dict[str, str | int | float]:
        """Record what was fixed by hand."""
        return {"step_size": self.step_size, "num_steps": self.num_steps}
