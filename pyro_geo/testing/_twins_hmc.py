"""Broken twins of Hamiltonian Monte Carlo, one mistake in each.

A twin is the shipped transition with one piece of :mod:`pyro_geo.infer.transition`
replaced, or with one input or output of it changed. All take and return what
:func:`~pyro_geo.testing.hmc.fixed_transition` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.infer import HMC
from pyro_geo.infer import transition as shipped
from pyro_geo.infer.mcmc.hmc.arrival import restarted
from pyro_geo.infer.transition import ChainState, Trajectory, leapfrog, metropolis
from pyro_geo.testing.hmc import FixedHMC, fixed_transition

__all__ = [
    "AdaptsForever",
    "ErasesModes",
    "KeptMomentum",
    "ReusedNoise",
    "SharedNoise",
    "always_accept",
    "early_turn",
    "flipped_acceptance",
    "heavy_momentum",
    "missing_half_kick",
    "stale_gradient",
    "stale_potential",
    "stuck_chain",
    "with_piece",
    "without_kinetic_energy",
]

Potential = Callable[[Tensor], Tensor]
Step = tuple[Any, Trajectory]

_AIM = 0.8  # acceptance that the adapting twin steers towards
_GAIN = 2.0  # how far one transition moves the logarithm of its step size


def with_piece(name: str, piece: Callable[..., Any], *inputs: Any) -> Step:
    """Make a transition with one piece of the shipped code replaced.

    Args:
        name: of a function of :mod:`pyro_geo.infer.transition`.
        piece: what takes its place.
        *inputs: those of :func:`~pyro_geo.testing.hmc.fixed_transition`.

    Returns:
        What :func:`~pyro_geo.testing.hmc.fixed_transition` returns.
    """
    with patch.object(shipped, name, piece):
        return fixed_transition(*inputs)


# -- acceptance ---------------------------------------------------------------------


def always_accept(*inputs: Any) -> Step:
    """Forget to accept or reject."""

    def accept(
        chains: ChainState, end: Trajectory, uniform: Tensor, last: Tensor
    ) -> ChainState:
        return metropolis(chains, end, torch.full_like(uniform, -1.0), last)

    return with_piece("metropolis", accept, *inputs)


def flipped_acceptance(*inputs: Any) -> Step:
    """Take the energy error with the wrong sign when accepting."""

    def accept(
        chains: ChainState, end: Trajectory, uniform: Tensor, last: Tensor
    ) -> ChainState:
        return metropolis(chains, end._replace(error=-end.error), uniform, last)

    return with_piece("metropolis", accept, *inputs)


def without_kinetic_energy(*inputs: Any) -> Step:
    """Accept by the potential alone."""

    def accept(
        chains: ChainState, end: Trajectory, uniform: Tensor, last: Tensor
    ) -> ChainState:
        error = end.potential - chains.potential
        return metropolis(chains, end._replace(error=error), uniform, last)

    return with_piece("metropolis", accept, *inputs)


def stale_gradient(*inputs: Any) -> Step:
    """Keep the proposal's gradient after a rejection."""
    new, end = fixed_transition(*inputs)
    return new._replace(grad=end.grad), end


def stale_potential(*inputs: Any) -> Step:
    """Keep the proposal's potential after a rejection."""
    new, end = fixed_transition(*inputs)
    return new._replace(potential=end.potential), end


# -- trajectories -------------------------------------------------------------------


def heavy_momentum(
    potential: Potential, state: ChainState, momentum: Tensor, *rest: Any
) -> Step:
    """Draw momenta of twice the variance that the kinetic energy assumes."""
    return fixed_transition(potential, state, math.sqrt(2.0) * momentum, *rest)


def missing_half_kick(*inputs: Any) -> Step:
    """Leave out the first half kick: volume is kept, reversibility is not."""

    def late(
        potential: Potential,
        metric: Any,
        start: Trajectory,
        size: Tensor,
        steps: Tensor,
    ) -> Trajectory:
        # add what the first half kick takes away
        kick = 0.5 * size.unsqueeze(-1) * metric.matvec(start.grad)
        start = start._replace(velocity=start.velocity + kick)
        return leapfrog(potential, metric, start, size, steps)

    return with_piece("leapfrog", late, *inputs)


def early_turn(*inputs: Any) -> Step:
    """End a trajectory where it turns back, as seen from its start alone."""

    def turning(
        potential: Potential,
        metric: Any,
        start: Trajectory,
        size: Tensor,
        steps: Tensor,
    ) -> Trajectory:
        end, going = start, torch.ones_like(size)
        for i in range(len(steps)):
            # a step of length zero stays where it is
            end = leapfrog(potential, metric, end, going * size, steps[i : i + 1])
            departs = ((end.q - start.q) * end.velocity).sum(-1) > 0
            going = going * departs
        return end

    return with_piece("leapfrog", turning, *inputs)


# -- chains -------------------------------------------------------------------------


def stuck_chain(potential: Potential, state: ChainState, *rest: Any) -> Step:
    """Leave the first chain where it is."""
    new, end = fixed_transition(potential, state, *rest)
    moves = torch.arange(len(state.q), device=state.q.device) > 0
    row = moves.unsqueeze(-1)
    held = ChainState(
        torch.where(row, new.q, state.q),
        torch.where(moves, new.potential, state.potential),
        torch.where(row, new.grad, state.grad),
    )
    return held, end


class _Twin(FixedHMC):
    """A twin that replaces the noise or the first state of a block."""

    def block(
        self,
        target: Target,
        state: Any,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        if isinstance(state, ChainState):
            state = self.extended(state, target, noise)
        return super().block(target, state, chains, draws, self.broken(noise))

    def extended(self, state: ChainState, target: Target, noise: BlockNoise) -> Any:
        """Add to the first state what the twin's transition needs; nothing here."""
        return state

    def broken(self, noise: BlockNoise) -> BlockNoise:
        """Return the noise that the twin uses, here the right one."""
        return noise


class ReusedNoise(_Twin):
    """HMC that draws its random numbers once and uses them in every transition."""

    def broken(self, noise: BlockNoise) -> BlockNoise:
        """Repeat the noise of the first transition."""
        return _Repeated(noise, axis=1)


class SharedNoise(_Twin):
    """HMC whose chains all use the first one's random numbers, and so meet."""

    def broken(self, noise: BlockNoise) -> BlockNoise:
        """Repeat the noise of the first chain."""
        return _Repeated(noise, axis=0)


class KeptMomentum(_Twin):
    """HMC that never draws new momenta: every chain stays on its level of energy."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options, transition=_keep_momentum)

    def extended(self, state: ChainState, target: Target, noise: BlockNoise) -> Any:
        """Draw the only momentum of each chain."""
        return _Moving(*state, noise.normal(target.dim, dtype=target.dtype))


class AdaptsForever(_Twin):
    """HMC whose chains still adapt their step sizes while they sample."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options, transition=_adapt_step)

    def extended(self, state: ChainState, target: Target, noise: BlockNoise) -> Any:
        """Give each chain a step size of its own."""
        return _Adapting(*state, torch.full_like(state.potential, self.step_size))


class ErasesModes(HMC):
    """HMC whose warm-up moves chains of a low density to where others are.

    A wide mode is lower in density than a narrow one of the same mass.
    """

    def adapt(
        self, target: Target, state: Any, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Make a block of warm-up, and move chains after the last."""
        warmup = super().adapt(target, state, chains, noise)
        if not warmup.finished:
            return warmup
        now = warmup.state.chains
        gap = now.potential - now.potential.quantile(0.05)
        low = gap > 10 + 5 * math.sqrt(target.dim / 2)
        even = torch.linspace(0, 1, len(low) + 1, dtype=target.dtype)[:-1]
        moved = restarted(now, low, ~low, even)
        return warmup._replace(state=warmup.state._replace(chains=moved))


class _Moving(NamedTuple):
    q: Tensor
    potential: Tensor
    grad: Tensor
    momentum: Tensor


class _Adapting(NamedTuple):
    q: Tensor
    potential: Tensor
    grad: Tensor
    step_size: Tensor


def _keep_momentum(
    potential: Potential,
    state: _Moving,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    at = ChainState(*state[:-1])
    new, end = fixed_transition(
        potential, at, state.momentum, uniform, step_size, num_steps
    )
    # a rejection reverses the momentum, as partial refreshment needs it
    accepted = (uniform < (-end.error).exp())[:, None]
    momentum = torch.where(accepted, end.velocity, -state.momentum)
    return _Moving(*new, momentum), end


def _adapt_step(
    potential: Potential,
    state: _Adapting,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    at = ChainState(*state[:-1])
    new, end = fixed_transition(
        potential, at, momentum, uniform, state.step_size, num_steps
    )
    rate = (-end.error).exp().clamp(max=1.0)
    factor = (_GAIN * (rate - _AIM)).exp()
    return _Adapting(*new, state.step_size * factor), end


class _Repeated(BlockNoise):
    """Noise whose first chain (axis 0) or first transition (axis 1) serves for all."""

    def __init__(self, noise: BlockNoise, axis: int) -> None:
        super().__init__(noise._streams)
        self.axis = axis

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = super().normal(*shape, dtype=dtype)
        return values.narrow(self.axis, 0, 1).expand_as(values)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = super().uniform(*shape, dtype=dtype)
        return values.narrow(self.axis, 0, 1).expand_as(values)
