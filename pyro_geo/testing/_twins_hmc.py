"""Broken twins of Hamiltonian Monte Carlo, one mistake in each.

All transitions take and return what :func:`~pyro_geo.testing.hmc.leapfrog_transition`
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.testing.hmc import (
    FixedHMC,
    FixedHMCInfo,
    FixedHMCState,
    choose,
    kinetic_energy,
    leapfrog,
    leapfrog_transition,
)

__all__ = [
    "AdaptsForever",
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
    "without_kinetic_energy",
]

Potential = Callable[[Tensor], Tensor]
Step = tuple[Any, FixedHMCInfo]

_AIM = 0.8  # acceptance that the adapting twin steers towards
_GAIN = 2.0  # how far one transition moves the logarithm of its step size


# -- acceptance ---------------------------------------------------------------------


def always_accept(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Forget to accept or reject."""
    certain = torch.full_like(uniform, -1.0)
    return leapfrog_transition(
        potential, state, momentum, certain, step_size, num_steps
    )


def flipped_acceptance(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Take the energy error with the wrong sign when accepting."""
    moved, p = leapfrog(potential, state, momentum, step_size, num_steps)
    error = _energy_error(state, momentum, moved, p)
    return _metropolis(state, moved, -error, uniform)


def without_kinetic_energy(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Accept by the potential alone."""
    moved, _ = leapfrog(potential, state, momentum, step_size, num_steps)
    return _metropolis(state, moved, moved.potential - state.potential, uniform)


def stale_gradient(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Keep the proposal's gradient after a rejection."""
    moved, p = leapfrog(potential, state, momentum, step_size, num_steps)
    error = _energy_error(state, momentum, moved, p)
    new, info = _metropolis(state, moved, error, uniform)
    return new._replace(grad=moved.grad), info


def stale_potential(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Keep the proposal's potential after a rejection."""
    moved, p = leapfrog(potential, state, momentum, step_size, num_steps)
    error = _energy_error(state, momentum, moved, p)
    new, info = _metropolis(state, moved, error, uniform)
    return new._replace(potential=moved.potential), info


# -- trajectories -------------------------------------------------------------------


def heavy_momentum(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Draw momenta of twice the variance that the kinetic energy stands for."""
    heavy = math.sqrt(2.0) * momentum
    return leapfrog_transition(potential, state, heavy, uniform, step_size, num_steps)


def missing_half_kick(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Leave out the first half kick: volume is kept, reversibility is not."""
    late = momentum + 0.5 * step_size * state.grad  # which the first kick takes away
    moved, p = leapfrog(potential, state, late, step_size, num_steps)
    error = _energy_error(state, momentum, moved, p)
    return _metropolis(state, moved, error, uniform)


def early_turn(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """End a trajectory where it turns back, as seen from its start alone."""
    now, p = state, momentum
    going = torch.ones_like(uniform, dtype=torch.bool)
    for _ in range(num_steps):
        then, later = leapfrog(potential, now, p, step_size, 1)
        now, p = choose(going, then, now), torch.where(going[:, None], later, p)
        going = going & (((now.q - state.q) * p).sum(-1) > 0)
    error = _energy_error(state, momentum, now, p)
    return _metropolis(state, now, error, uniform)


# -- chains -------------------------------------------------------------------------


def stuck_chain(
    potential: Potential,
    state: FixedHMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    """Leave the first chain where it is."""
    new, info = leapfrog_transition(
        potential, state, momentum, uniform, step_size, num_steps
    )
    moves = torch.arange(len(uniform), device=uniform.device) > 0
    return choose(moves, new, state), info


class ReusedNoise(FixedHMC):
    """HMC that draws its random numbers once and uses them in every transition."""

    def block(
        self,
        target: Target,
        state: FixedHMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain, all with the first one's noise."""
        return super().block(target, state, chains, draws, _Repeated(noise, axis=1))


class SharedNoise(FixedHMC):
    """HMC whose chains all use the first one's random numbers, and so meet."""

    def block(
        self,
        target: Target,
        state: FixedHMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain, all with the first one's noise."""
        return super().block(target, state, chains, draws, _Repeated(noise, axis=0))


class KeptMomentum(FixedHMC):
    """HMC that never draws new momenta: every chain stays on its level of energy."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options, transition=_keep_momentum)

    def block(
        self,
        target: Target,
        state: Any,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        if isinstance(state, FixedHMCState):
            momentum = noise.normal(target.dim, dtype=target.dtype)
            state = _Moving(*state, momentum)
        return super().block(target, state, chains, draws, noise)


class AdaptsForever(FixedHMC):
    """HMC whose chains go on adapting their step sizes while they sample."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options, transition=_adapt_step)

    def block(
        self,
        target: Target,
        state: Any,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain."""
        if isinstance(state, FixedHMCState):
            state = _Adapting(*state, torch.full_like(state.potential, self.step_size))
        return super().block(target, state, chains, draws, noise)


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
    at = FixedHMCState(*state[:-1])
    moved, p = leapfrog(potential, at, state.momentum, step_size, num_steps)
    error = _energy_error(at, state.momentum, moved, p)
    new, info = _metropolis(at, moved, error, uniform)
    # turned round where the step is rejected, as it should be
    kept = torch.where((uniform < (-error).exp())[:, None], p, -state.momentum)
    return _Moving(*new, kept), info


def _adapt_step(
    potential: Potential,
    state: _Adapting,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> Step:
    new, info = leapfrog_transition(
        potential,
        FixedHMCState(*state[:-1]),
        momentum,
        uniform,
        state.step_size[:, None],
        num_steps,
    )
    factor = (_GAIN * (info.acceptance_rate - _AIM)).exp()
    return _Adapting(*new, state.step_size * factor), info


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


# -- the sound parts ------------------------------------------------------------------


def _energy_error(
    state: FixedHMCState, momentum: Tensor, moved: FixedHMCState, p: Tensor
) -> Tensor:
    """Energy at the end of a trajectory minus energy at its start."""
    kinetic = kinetic_energy(p)
    return kinetic + moved.potential - state.potential - kinetic_energy(momentum)


def _metropolis(
    state: FixedHMCState, moved: FixedHMCState, error: Tensor, uniform: Tensor
) -> tuple[FixedHMCState, FixedHMCInfo]:
    """Accept with the probability that goes with an error of the energy."""
    error = torch.where(error.isnan(), torch.inf, error)
    rate = (-error).exp().clamp(max=1.0)
    new = choose(uniform < (-error).exp(), moved, state)
    return new, FixedHMCInfo(state.potential, error, rate, error > math.inf)
