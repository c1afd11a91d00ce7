"""HMC moves of particles at any temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine import SequentialNoise
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.transition import ChainState, TransitionLoop
from pyro_geo.ops.chunks import rows_that_fit
from pyro_geo.ops.lanes import map_lanes

__all__ = ["Move", "ParticleMover"]


class Move(NamedTuple):
    """Particles after a move.

    Attributes:
        q: positions, `(particles, dim)`.
        loss: summed over the examples, `(particles,)`.
        acceptance: rate of each particle, `(particles,)`.
    """

    q: Tensor
    loss: Tensor
    acceptance: Tensor


class ParticleMover:
    """HMC moves at any temperature, as many particles at a time as fit.

    Args:
        model: the Gibbs model.
        target: its density at the data.
        num_leapfrog: steps of one move.
        chunk: particles side by side; as many as fit if None.
    """

    def __init__(
        self,
        model: GibbsModel,
        target: Target,
        num_leapfrog: int,
        chunk: int | None = None,
    ) -> None:
        self.model, self.target = model, target
        self.num_leapfrog = num_leapfrog
        # at inverse temperature 1 the log-likelihood is minus the summed loss
        self._plain = target.tempered(1.0)
        if chunk is None:
            q = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
            with torch.no_grad():
                likelihood = self._plain.pointwise_log_likelihood
                chunk = rows_that_fit(lambda: likelihood(q))
        self.chunk = chunk
        self._loss = target.lift("summed loss", _summed_loss, "the loss")
        self._prior = target.lift("log-prior", _log_prior, "the prior")

    def loss(self, q: Tensor) -> Tensor:
        """Sum the loss over the examples, `(particles,)` in double precision."""
        rung = self.target.rung
        return self._in_parts(
            lambda rows: self._loss(self._plain.data, rows, rung=rung), q
        ).double()

    def log_prior(self, q: Tensor) -> Tensor:
        """Log-density of the prior, `(particles,)` in double precision."""
        rung = self.target.rung
        return self._in_parts(
            lambda rows: self._prior(self._plain.data, rows, rung=rung), q
        ).double()

    def move(
        self,
        q: Tensor,
        beta: float,
        step_size: float,
        scale: Tensor,
        moves: int,
        noise: SequentialNoise,
    ) -> Move:
        """Move each particle, leaving the Gibbs posterior at `beta` invariant.

        Args:
            q: positions, `(particles, dim)`.
            beta: inverse temperature.
            step_size: of a leapfrog step, in units of `scale`.
            scale: of the directions, `(dim,)`.
            moves: how many.
            noise: random numbers.

        Returns:
            The particles. One whose energy is not finite at the end stays.
        """
        target = self.target.tempered(beta)
        total = torch.zeros(len(q), dtype=torch.float64)
        for _ in range(moves):
            momentum = noise.normal(*q.shape, dtype=q.dtype).to(q.device)
            # drawn for all particles at once: how they are split into chunks changes no
            # number
            uniform = noise.uniform(len(q), dtype=q.dtype).to(q.device)
            # one table, so that a chunk has its particles and their noise together
            both = torch.cat([q, momentum, uniform[:, None]], 1)
            ends = self._in_parts(
                lambda rows: self._one_move(target, rows, step_size, scale), both
            )
            q, rate = ends[:, :-1].contiguous(), ends[:, -1]
            total += rate.double().cpu()
        return Move(q, self.loss(q), total / moves)

    def __reduce__(self) -> tuple[Any, ...]:
        # compiled functions do not travel; they are made again
        settings = (self.model, self.target, self.num_leapfrog, self.chunk)
        return type(self), settings

    def _one_move(
        self, target: Target, rows: Tensor, step_size: float, scale: Tensor
    ) -> Tensor:
        q, momentum = (x.contiguous() for x in rows[:, :-1].chunk(2, 1))
        # the particle's gradient at the last temperature is of no use at this one
        value, grad = target.value_and_grad(q)
        chains, metric = ChainState(q, -value, -grad), Diagonal(scale)
        # unroll=1: a path visits many temperatures, and a short graph is traced sooner
        step = TransitionLoop(target, chains, metric, unroll=1)
        sizes = torch.full_like(value, step_size)
        chains, trajectory = step(
            metric, chains, momentum, rows[:, -1], sizes, self.num_leapfrog
        )
        # the Metropolis rate of the energy error at the end of the trajectory
        rate = (-trajectory.error).exp().clamp(max=1.0)
        return torch.cat([chains.q, rate[:, None]], 1)

    def _in_parts(self, fn: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply to all rows, the same number in each call."""
        return map_lanes(fn, rows, min(self.chunk, len(rows)))


def _summed_loss(target: Target, q: Tensor) -> Tensor:
    return -target.log_likelihood(q)


def _log_prior(target: Target, q: Tensor) -> Tensor:
    return target.log_prior(q)
