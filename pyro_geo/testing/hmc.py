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
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["FixedHMC", "HMCState", "leapfrog_transition"]

_DRAWS = 25  # transitions per block
_LARGEST_ERROR = 1e3  # energy error beyond which a transition counts as divergent


class HMCState(NamedTuple):
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


class HMCInfo(NamedTuple):
    """What happened in one transition, `(chains,)` each."""

    energy: Tensor
    energy_error: Tensor
    acceptance_rate: Tensor
    diverging: Tensor


def leapfrog(
    potential: Callable[[Tensor], Tensor],
    state: HMCState,
    momentum: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[HMCState, Tensor]:
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


def choose(first: Tensor, one: HMCState, other: HMCState) -> HMCState:
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
    state: HMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[HMCState, HMCInfo]:
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
    moved, p = leapfrog(potential, state, momentum, step_size, num_steps)
    start = state.potential + kinetic_energy(momentum)
    error = moved.potential + kinetic_energy(p) - start
    error = torch.where(error.isnan(), torch.inf, error)
    new = choose(uniform < (-error).exp(), moved, state)
    rate = (-error).exp().clamp(max=1.0)
    return new, HMCInfo(start, error, rate, error > _LARGEST_ERROR)


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
    state_type: Any = HMCState
    max_lanes: int | None = None

    def __init__(
        self,
        model: Callable[..., Any] | Target,
        *,
        step_size: float = 0.1,
        num_steps: int = 10,
        transition: Callable[..., tuple[HMCState, HMCInfo]] = leapfrog_transition,
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
        value, grad = value_and_grad(lambda q: -target.log_prob(q), initial)
        state = HMCState(initial, value, grad, torch.tensor(warmup_steps))
        return Warmup(state, finished=warmup_steps == 0)

    def adapt(
        self, target: Target, state: HMCState, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Burn in; nothing is adapted."""
        left = int(state.burn_in)
        draws = min(_DRAWS, left)
        block = self.block(target, state, chains, draws, noise)
        burnt = block.state._replace(burn_in=state.burn_in - draws)
        return Warmup(burnt, left == draws, draws, block.num_steps, block.rung)

    def tuning(self, state: HMCState) -> None:
        """Nothing is tuned."""

    def describe(self, states: Sequence[HMCState]) -> dict[str, str | int | float]:
        """Record what was fixed by hand."""
        return {"step_size": self.step_size, "num_steps": self.num_steps}

    def block(
        self,
        target: Target,
        state: HMCState,
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
            lambda target, state, momentum, uniform, size: self.transition(
                lambda q: -target.log_prob(q),
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

    def review(
        self, states: Sequence[HMCState], stats: dict[str, Tensor]
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
