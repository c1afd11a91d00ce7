"""The pilot: chooses temperatures, step sizes and scales of a path by walking it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.engine import SequentialNoise
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, check_alive
from pyro_geo.ops.weights import next_temperature, systematic

__all__ = ["Pilot", "scout"]

_TRIES = 3  # moves of the pilot at each temperature, for its step size
_MOST_STAGES = 2_000
_SMALLEST = 1e-6  # least scale of a direction, as a share of the prior's


class Pilot(NamedTuple):
    """Where the pilot is between two temperatures.

    Attributes:
        q: positions of its particles, `(particles, dim)`.
        step_size: to go on with.
        smallest: least scale of each direction, `(dim,)`.
        betas: inverse temperatures so far.
        step_sizes: for each of them.
        scales: for each of them, `(dim,)`.
    """

    q: Tensor
    step_size: float
    smallest: Tensor
    betas: tuple[float, ...] = ()
    step_sizes: tuple[float, ...] = ()
    scales: tuple[Tensor, ...] = ()

    @classmethod
    def begin(cls, q: Tensor) -> Pilot:
        """Start with draws from the prior, `(particles, dim)`."""
        # optimal HMC steps shrink as the fourth root of the dimension (Beskos et al.,
        # 2013, Optimal tuning of the hybrid Monte Carlo algorithm)
        return cls(q, 0.5 / q.shape[1] ** 0.25, _SMALLEST * q.std(0))

    @property
    def beta(self) -> float:
        """Inverse temperature that it has reached."""
        return self.betas[-1] if self.betas else 0.0

    def plan(
        self, num_leapfrog: int, moves: int, ess_threshold: float
    ) -> AnnealingPlan:
        """Write down how to walk where it has walked.

        Args:
            num_leapfrog: steps of one move.
            moves: of each stage of the run.
            ess_threshold: of the run.

        Returns:
            The plan.
        """
        return AnnealingPlan(
            self.betas,
            self.step_sizes,
            torch.stack(self.scales),
            num_leapfrog,
            moves,
            ess_threshold,
        )


def scout(
    mover: ParticleMover,
    pilot: Pilot,
    ends: Sequence[float],
    *,
    cess: float,
    target_accept_prob: float,
    noise: SequentialNoise,
) -> Iterator[Pilot]:
    """Walk the path with a pilot.

    The pilot adapts to its own particles, which a certified run may not do; its draws
    are thrown away. Their weights would not be proper: which temperatures and step
    sizes they see depends on where they are.

    Args:
        mover: makes the moves.
        pilot: where it is.
        ends: inverse temperatures that must be among the stages, rising.
        cess: conditional effective size of each step to the next temperature.
        target_accept_prob: acceptance rate that step sizes are adapted to.
        noise: random numbers.

    Yields:
        The pilot after each temperature.

    Raises:
        ConfigurationError: no end of the path in sight.
    """
    loss = mover.loss(pilot.q)
    while pilot.beta < ends[-1]:
        pilot, loss = _explore(
            mover, pilot, loss, ends, cess, target_accept_prob, noise
        )
        if len(pilot.betas) > _MOST_STAGES:
            raise ConfigurationError(
                "the path of temperatures does not end",
                where=f"the pilot, at beta {pilot.beta:.3g} of {ends[-1]:g}",
                found=f"{len(pilot.betas)} stages",
                expected=f"at most {_MOST_STAGES}",
                todo="Lower cess or betas, or scale the loss.",
            )
        yield pilot


def _explore(
    mover: ParticleMover,
    pilot: Pilot,
    loss: Tensor,
    ends: Sequence[float],
    cess: float,
    target_accept_prob: float,
    noise: SequentialNoise,
) -> tuple[Pilot, Tensor]:
    """Take the pilot to the next temperature; its particles and their loss."""
    q, step_size, beta = pilot.q, pilot.step_size, pilot.beta
    # a particle without a finite loss has no weight from here on
    alive = torch.where(loss.isfinite(), torch.zeros_like(loss), -math.inf)
    finite = loss.nan_to_num(0.0, 0.0, 0.0)
    check_alive(alive, "the pilot")
    end = next(end for end in ends if end > beta)
    # as far as the conditional effective size allows, and never past an end
    new = next_temperature(alive, finite, beta, end, cess)
    log_weights = alive - (new - beta) * finite
    # Weighted standard deviations at the new temperature are its metric. The floor
    # holds where few particles count, and their spread collapses.
    share = log_weights.softmax(0).to(q.dtype)[:, None]
    mean = (share * q).sum(0)
    scale = (share * (q - mean).square()).sum(0).sqrt().maximum(pilot.smallest)
    q = q[systematic(log_weights, noise.uniform())]
    # each try moves the step size towards the wanted acceptance rate
    for _ in range(_TRIES):
        q, loss, rate = mover.move(q, new, step_size, scale, 1, noise)
        step_size *= math.exp(float(rate.mean()) - target_accept_prob)
    betas, steps, scales = pilot.betas, pilot.step_sizes, pilot.scales
    return pilot._replace(
        q=q,
        step_size=step_size,
        betas=(*betas, new),
        step_sizes=(*steps, step_size),
        scales=(*scales, scale),
    ), loss
