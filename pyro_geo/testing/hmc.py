"""A minimal kernel for tests: HMC with a fixed step size and no adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.kernel import Block, Warmup, target_of
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import DivergenceWarning, PyroGeoWarning
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer import transition as shipped
from pyro_geo.infer.transition import LARGEST_ERROR, ChainState, Trajectory

__all__ = ["FixedHMC", "FixedHMCState", "fixed_transition"]

_DRAWS = 25  # transitions per block


class FixedHMCState(NamedTuple):
    """Positions with their potential and gradient.

    Attributes:
        q: positions, `(chains, dim)`.
        potential: minus the log-density there, `(chains,)`.
        grad: its gradient, `(chains, dim)`.
        burn_in: transitions left before the draws count, `()`.
    """

    q: Tensor
    potential: Tensor
    grad: Tensor
    burn_in: Tensor


def fixed_transition(
    potential: Callable[[Tensor], Tensor],
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[FixedHMCState, Trajectory]:
    """Make one transition of every chain by the shipped code, in the identity metric.

    Args:
        potential: batched potential, `(chains, dim) -> (chains,)`.
        state: where the chains are.
        momentum: standard normal momenta, `(chains, dim)`.
        uniform: uniform numbers for the acceptance, `(chains,)`.
        step_size: `()` or `(chains,)`.
        num_steps: leapfrog steps.

    Returns:
        The next state, and the ends of the trajectories.
    """
    chains = ChainState(*state[:3])
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
    return FixedHMCState(*new, state.burn_in), trajectory


class FixedHMC:
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

    stats = ("lp", "energy", "energy_error", "acceptance_rate", "n_steps", "diverging")
    citations = ()
    chain_name: str = "chain"
    state_type: Any = FixedHMCState
    max_lanes: int | None = None

    def __init__(
        self,
        model: Callable[..., Any] | Target,
        *,
        step_size: float = 0.1,
        num_steps: int = 10,
        transition: Callable[..., tuple[Any, Trajectory]] = fixed_transition,
    ) -> None:
        self.model = model
        self.step_size = step_size
        self.num_steps = num_steps
        self.transition = transition

    def make_target(
        self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Target:
        """Turn the model and its arguments into a density."""
        return target_of(self.model, *args, dtype=dtype, **kwargs)

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Evaluate the density, `(draws,)` at `q` of `(draws, dim)`."""
        return target.log_prob(q)

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """Burn in as long as Pyro does."""
        return num_samples

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """A fixed number of transitions."""
        return _DRAWS

    def start(
        self,
        target: Target,
        chains: Sequence[int],
        *,
        num_samples: int,
        num_chains: int,
        warmup_steps: int,
        initial: Tensor | None,
        noise: BlockNoise,
        tuning: None,
    ) -> Warmup:
        """Start every chain from its own stream."""
        if initial is None:
            generators = [noise.generator(i) for i in range(len(chains))]
            initial = target.initial_each(generators)
        where = shipped.chain_state_at(target, initial)
        state = FixedHMCState(*where, torch.tensor(warmup_steps))
        return Warmup(state, finished=warmup_steps == 0)

    def adapt(
        self,
        target: Target,
        state: FixedHMCState,
        chains: Sequence[int],
        noise: BlockNoise,
    ) -> Warmup:
        """Burn in; nothing is adapted."""
        left = int(state.burn_in)
        draws = min(_DRAWS, left)
        block = self.block(target, state, chains, draws, noise)
        burnt = block.state._replace(burn_in=state.burn_in - draws)
        return Warmup(burnt, left == draws, draws, block.num_steps, block.rung)

    def tuning(self, state: FixedHMCState) -> None:
        """Nothing is tuned."""

    def describe(self, states: Sequence[FixedHMCState]) -> dict[str, str | int | float]:
        """Record what was fixed by hand."""
        return {"step_size": self.step_size, "num_steps": self.num_steps}

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

    def review(
        self, states: Sequence[FixedHMCState], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Count the divergent transitions."""
        bad = stats["diverging"]
        if not bool(bad.any()):
            return []
        return [
            DivergenceWarning(
                "transitions diverged",
                where="FixedHMC",
                found=f"{int(bad.sum())} of {bad.numel()}",
                expected="none",
                todo="lower step_size or reparametrise",
            )
        ]
