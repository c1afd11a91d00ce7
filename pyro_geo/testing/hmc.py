"""A minimal kernel for tests: HMC with a fixed step size and no adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import known_options
from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block, ChainGroup, Warmup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer import transition as shipped
from pyro_geo.infer.transition import LARGEST_ERROR, ChainState, Trajectory

__all__ = ["FixedHMC", "fixed_transition"]


def fixed_transition(
    potential: Callable[[Tensor], Tensor],
    chains: ChainState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[ChainState, Trajectory]:
    """Make one transition of every chain by the shipped code, in the identity metric.

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        chains: where they are.
        momentum: standard normal momenta, `(chains, dim)`.
        uniform: uniform numbers for the acceptance, `(chains,)`.
        step_size: `()` or `(chains,)`.
        num_steps: leapfrog steps.

    Returns:
        The next state, and the ends of the trajectories.
    """
    yes = torch.ones((), dtype=torch.bool, device=momentum.device)
    # nothing of it is read where a trajectory starts
    blank = Trajectory(
        chains.q, momentum, chains.potential, chains.grad, uniform, uniform
    )
    # by its module, so that a twin can replace one piece of it
    new, trajectory = shipped.hmc_transition(
        potential,
        Diagonal(torch.ones_like(momentum[0])),
        chains,
        blank,
        momentum,
        uniform,
        step_size.expand_as(uniform),
        uniform.new_ones(num_steps),
        first=yes,
        last=yes,
    )
    return new, trajectory


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
    state_type = ChainState
    draws_per_block = 25

    @known_options
    def __init__(
        self,
        model: Callable[..., Any] | Target,
        *,
        step_size: float = 0.1,
        num_steps: int = 10,
        transition: Callable[..., tuple[ChainState, Trajectory]] = fixed_transition,
    ) -> None:
        super().__init__(model)
        self.step_size = step_size
        self.num_steps = num_steps
        self.transition = transition

    def start(self, target: Target, group: ChainGroup) -> Warmup:
        """Start every chain from its own stream."""
        return group.burn_in(shipped.chain_state_at(target, group.starts(target)))

    def block(
        self,
        target: Target,
        state: ChainState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        dtype = target.dtype
        momenta = noise.normal(draws, target.dim, dtype=dtype).to(target.device)
        uniforms = noise.uniform(draws, dtype=dtype).to(target.device)
        size = torch.tensor(self.step_size, dtype=dtype)
        # the function holds these two alone: the kernel is not part of the graph
        transition, num_steps = self.transition, self.num_steps
        lifted = target.lift(
            ("fixed_hmc", transition, num_steps),
            lambda target, state, momentum, uniform, size: transition(
                lambda q: -target.log_prob(q), state, momentum, uniform, size, num_steps
            ),
            "a transition of HMC",
        )
        step = lifted.specialise(
            target.data, state, momenta[:, 0], uniforms[:, 0], size, rung=target.rung
        )
        positions, rows = [], []
        for i in range(draws):
            state, end = step(state, momenta[:, i], uniforms[:, i], size)
            positions.append(state.q)
            rows.append((-state.potential, end.energy, end.error))
        lp, energy, error = (
            torch.stack(column, 1) for column in zip(*rows, strict=True)
        )
        stats = {
            "lp": lp,
            "energy": energy,
            "energy_error": error,
            "acceptance_rate": (-error).exp().clamp(max=1.0),
            "n_steps": torch.full_like(lp, self.num_steps, dtype=torch.long),
            "diverging": error > LARGEST_ERROR,
        }
        return Block(state, torch.stack(positions, 1), stats, draws, lifted.rung)

    def describe(self, states: Sequence[ChainState]) -> dict[str, str | int | float]:
        """Record what was fixed by hand."""
        return {"step_size": self.step_size, "num_steps": self.num_steps}
