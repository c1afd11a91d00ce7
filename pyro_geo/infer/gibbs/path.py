"""A path of temperatures, walked as it was planned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.engine import SequentialNoise
from pyro_geo.errors import EmptyEnsembleError
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.ops.weights import ess, log_mean, systematic

__all__ = [
    "Balance",
    "AnnealingPlan",
    "Stage",
    "Walk",
    "anneal",
    "check_alive",
    "next_stage",
    "prior_stage",
]


class AnnealingPlan(NamedTuple):
    """What a run will do, fixed before it starts.

    Attributes:
        betas: inverse temperatures, one for each stage, rising.
        step_sizes: of the leapfrog steps, one for each stage.
        scales: of the directions, `(stages, dim)`.
        num_leapfrog: steps of one move.
        moves: of each stage.
        ess_threshold: share of effective particles below which they are resampled.
    """

    betas: tuple[float, ...]
    step_sizes: tuple[float, ...]
    scales: Tensor
    num_leapfrog: int
    moves: int
    ess_threshold: float


class Stage(NamedTuple):
    """Particles at one temperature, properly weighted.

    Attributes:
        beta: inverse temperature.
        q: positions, `(particles, dim)`.
        log_weights: logarithms of the weights; they sum to an unbiased estimate of the
            normaliser, `(particles,)`.
        loss: summed over the examples, `(particles,)`.
        acceptance: rate of the moves, `(particles,)`.
        ess: effective particles before resampling.
        resampled: whether they were.
        killed: particles dropped here because their loss was not finite.
    """

    beta: float
    q: Tensor
    log_weights: Tensor
    loss: Tensor
    acceptance: Tensor
    ess: float
    resampled: bool
    killed: int

    @property
    def log_z(self) -> float:
        """Logarithm of the estimated normaliser."""
        return float(self.log_weights.logsumexp(0))


class Balance(NamedTuple):
    """What the weights of uncorrected steps are made of.

    Attributes:
        start: log-density of the prior where the particles began, `(particles,)`.
        work: log-density of all steps back minus that of the steps, `(particles,)`.
        dead: particles that were dropped, `(particles,)`.
    """

    start: Tensor
    work: Tensor
    dead: Tensor


class Walk(NamedTuple):
    """Where a path is between two stages.

    Attributes:
        q: positions, `(particles, dim)`; draws from the prior at first.
        done: stages behind it.
        stage: the last of them.
        balance: of uncorrected steps.
    """

    q: Tensor
    done: int = 0
    stage: Stage | None = None
    balance: Balance | None = None


def anneal(
    mover: ParticleMover, plan: AnnealingPlan, walk: Walk, noise: SequentialNoise
) -> Iterator[Walk]:
    """Walk the path as planned.

    Args:
        mover: makes the moves.
        plan: the path.
        walk: where it is.
        noise: random numbers.

    Yields:
        Where it is after each stage.
    """
    stage = walk.stage or prior_stage(mover, walk.q)
    for index in range(walk.done, len(plan.betas)):
        stage = next_stage(mover, plan, index, stage, noise)
        yield Walk(stage.q, index + 1, stage)


def prior_stage(mover: ParticleMover, q: Tensor) -> Stage:
    """Weigh draws from the prior, the stage at inverse temperature 0.

    Args:
        mover: evaluates the loss.
        q: the draws, `(particles, dim)`.

    Returns:
        The stage. Its weights sum to 1, the prior's normaliser.
    """
    loss, count = mover.loss(q), len(q)
    log_weights = torch.full((count,), -math.log(count), dtype=torch.float64)
    log_weights = log_weights.to(q.device)
    return Stage(
        0.0, q, log_weights, loss, torch.ones_like(loss), float(count), False, 0
    )


def next_stage(
    mover: ParticleMover,
    plan: AnnealingPlan,
    index: int,
    stage: Stage,
    noise: SequentialNoise,
) -> Stage:
    r"""Reweigh the particles, resample where that is due, and move them.

    .. math:: \log v_i \leftarrow \log v_i - (\beta_t - \beta_{t-1})\, T(\theta_i)

    Nothing here depends on the particles but the weights and when they are resampled,
    so that each stage is properly weighted: :math:`E \sum_i v_i f(\theta_i)` is the
    integral of :math:`f` under the unnormalised posterior.

    Args:
        mover: makes the moves.
        plan: the path.
        index: of the stage to make.
        stage: the one before.
        noise: random numbers.

    Returns:
        The stage.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers, section
        3.3.2.3: the weight of a move that leaves the new temperature invariant.
    """
    q, loss, log_weights = stage.q, stage.loss, stage.log_weights
    beta = plan.betas[index]
    # The weight depends on where a particle was before the move alone, because the
    # move leaves the new temperature invariant. So moves need no weight of their own.
    tilt = (beta - stage.beta) * loss
    before = log_weights > -math.inf
    log_weights = torch.where(loss.isfinite(), log_weights - tilt, -math.inf)
    check_alive(log_weights, f"beta {beta:.3g}")
    killed = int((before & ~loss.isfinite()).sum())
    effective = float(ess(log_weights))
    resampled = effective < plan.ess_threshold * len(q)
    if resampled:
        rows = systematic(log_weights, noise.uniform())
        q = q[rows]
        # Each survivor carries the mean weight: their sum, the estimate of the
        # normaliser, is the same before and after, and so stays unbiased.
        log_weights = log_mean(log_weights).expand(len(q)).clone()
    # step size and scale were frozen by the pilot: adapted to these particles, the
    # move would not leave the posterior invariant
    q, loss, rate = mover.move(
        q, beta, plan.step_sizes[index], plan.scales[index], plan.moves, noise
    )
    # A particle whose loss is no longer finite is dropped. A weight may always be
    # lowered: that makes the estimate of the normaliser smaller and a certificate
    # looser, never wrong.
    lost = ~loss.isfinite() & (log_weights > -math.inf)
    killed += int(lost.sum())
    log_weights = torch.where(lost, -math.inf, log_weights)
    check_alive(log_weights, f"beta {beta:.3g}")
    return Stage(beta, q, log_weights, loss, rate, effective, resampled, killed)


def check_alive(log_weights: Tensor, where: str) -> None:
    """Refuse to go on if every particle has been dropped."""
    if not bool((log_weights > -math.inf).any()):
        raise EmptyEnsembleError(
            "no particle is left",
            where=where,
            found=f"{len(log_weights)} particles without a finite loss",
            expected="at least one",
            todo="Look for NaN in the arguments and the targets, and for losses that "
            "are not finite at draws from the prior; use more particles.",
        )
