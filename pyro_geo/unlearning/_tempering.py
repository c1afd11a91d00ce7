r"""Tempered sequential Monte Carlo: particles from all data to fewer.

Particles walk through :math:`p(\theta)\, p(R \mid \theta)\, p(F \mid \theta)^{\tau}`
from :math:`\tau = 1` to 0. Every step is as long as the weights allow; then particles
are resampled and moved.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine import SequentialNoise
from pyro_geo.geometry.matrices import Cholesky
from pyro_geo.infer.transition import TransitionLoop, chain_state_at
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.weights import ess, next_temperature, systematic
from pyro_geo.unlearning._parts import Parts, impossible

__all__ = ["Moves", "Tempered", "temper_away"]

Moves = Literal["hmc", "random_walk"]

_SHARE = 0.5  # effective particles that a step may leave
_ROUNDS = 6  # of moves at most in one stage
_FAR = 0.6  # mean squared move in standard deviations, 2 for independent draws
_HMC_RATE, _WALK_RATE = 0.8, 0.234
_WALKS = 10  # random-walk moves in a round
_QUARTER = 0.5 * math.pi  # length of a trajectory in standard deviations


class Tempered(NamedTuple):
    """Particles at the end of the path.

    Attributes:
        q: equally weighted positions, `(particles, dim)`.
        powers: of the likelihood that goes, one for each stage; the last is 0.
        ess: effective particles before each resampling, the smallest.
        acceptance: mean rate of the moves of the last stage.
        moved: mean squared move of the worst stage, in standard deviations; 2 if
            the particles had become independent of where they were.
        good: whether the particles have moved enough in every stage.
    """

    q: Tensor
    powers: tuple[float, ...]
    ess: float
    acceptance: float
    moved: float
    good: bool


def temper_away(
    parts: Parts,
    q: Tensor,
    log_weights: Tensor | None,
    noise: SequentialNoise,
    *,
    moves: Moves = "hmc",
    max_stages: int = 50,
) -> Tempered:
    """Walk particles from the posterior of all data to that of what stays.

    Args:
        parts: the density.
        q: draws of the posterior of all data, `(particles, dim)`.
        log_weights: their weights; equal ones if None.
        noise: random numbers.
        moves: kind of the moves.
        max_stages: of the path.

    Returns:
        The particles.

    References:
        Derived; Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers, for
        the path; Neal (2011), 1206.1901, for the moves.
    """
    weights = torch.zeros(len(q)) if log_weights is None else log_weights
    weights = weights.to(q).double()
    done, powers, least, worst = 0.0, [], float(len(q)), math.inf
    rate, size = 0.0, None
    while done < 1.0 and len(powers) < max_stages:
        loss = map_chunks(parts.forgotten, q)
        impossible(loss, "the data to forget, at a particle")
        after = next_temperature(weights, loss, done, 1.0, _SHARE)
        weights = weights - (after - done) * loss
        done = after
        powers.append(1.0 - done)
        least = min(least, float(ess(weights)))
        share = weights.softmax(0).to(q)
        mean = share @ q
        spread = (share[:, None] * (q - mean)).mT @ (q - mean)
        root = _root(spread)
        q = q[
            systematic(weights, noise.uniform(1, dtype=torch.float64)[0].to(q.device))
        ]
        weights = torch.zeros_like(weights)
        mover = _Mover(parts.tempered(1.0 - done), root, moves, size)
        q, moved = mover.rounds(q, noise)
        rate, size, worst = mover.rate, mover.size, min(worst, moved)
    good = done >= 1.0 and worst >= _FAR
    return Tempered(q, tuple(powers), least, rate, worst, good)


def _root(spread: Tensor) -> Tensor:
    """Lower root of a covariance, made definite where particles are too few."""
    root, info = torch.linalg.cholesky_ex(spread)
    if int(info) == 0:
        return root
    return torch.diag(spread.diagonal().clamp(min=1e-12).sqrt())


class _Mover:
    """Moves of particles that leave a density invariant, with a size that adapts.

    Args:
        target: the density.
        root: lower root of the particles' covariance.
        moves: kind of the moves.
        size: of a move, in units of the root; a first guess if None.
    """

    def __init__(
        self, target: Target, root: Tensor, moves: Moves, size: float | None
    ) -> None:
        self.target, self.root, self.moves = target, root, moves
        dim = len(root)
        first = 0.7 / dim**0.25 if moves == "hmc" else 2.38 / dim**0.5
        self.size = first if size is None else size
        self.rate = 0.0

    def rounds(self, q: Tensor, noise: SequentialNoise) -> tuple[Tensor, float]:
        """Move particles until they have forgotten where they were.

        Args:
            q: positions, `(particles, dim)`.
            noise: random numbers.

        Returns:
            Positions, and their mean squared move in standard deviations.
        """
        start, far = q, 0.0
        for _ in range(_ROUNDS):
            q = self._hmc(q, noise) if self.moves == "hmc" else self._walk(q, noise)
            step = torch.linalg.solve_triangular(self.root, (q - start).mT, upper=False)
            far = float(step.square().mean())
            if far >= 2 * _FAR:
                break
        return q, far

    def _hmc(self, q: Tensor, noise: SequentialNoise) -> Tensor:
        """Two trajectories of a quarter of an orbit each."""
        metric = Cholesky(self.root.to(self.target.dtype))
        q = q.to(self.target.dtype)
        chains = chain_state_at(self.target, q)
        loop = TransitionLoop(self.target, chains, metric, unroll=1)
        rates = []
        for _ in range(2):
            steps = max(1, math.ceil(_QUARTER / self.size))
            momentum = noise.normal(*q.shape, dtype=q.dtype).to(q.device)
            uniform, jitter = noise.uniform(2, len(q), dtype=q.dtype).to(q.device)
            sizes = self.size * (0.8 + 0.4 * jitter)
            chains, end = loop(metric, chains, momentum, uniform, sizes, steps)
            rates.append(float((-end.error).exp().clamp(max=1).mean()))
            self.size = min(self.size * math.exp(rates[-1] - _HMC_RATE), 2.0)
        self.rate = sum(rates) / len(rates)
        return chains.q

    def _walk(self, q: Tensor, noise: SequentialNoise) -> Tensor:
        value = map_chunks(self.target.log_prob, q)
        rates = []
        for _ in range(_WALKS):
            step = noise.normal(*q.shape, dtype=q.dtype).to(q.device) @ self.root.mT
            new = q + self.size * step
            proposed = map_chunks(self.target.log_prob, new)
            proposed = torch.where(proposed.isnan(), -torch.inf, proposed)
            accept = (proposed - value).exp().clamp(max=1.0)
            uniform = noise.uniform(len(q), dtype=q.dtype).to(q.device)
            chosen = uniform < accept
            q = torch.where(chosen[:, None], new, q)
            value = torch.where(chosen, proposed, value)
            rates.append(float(accept.mean()))
            self.size *= math.exp(rates[-1] - _WALK_RATE)
        self.rate = sum(rates) / len(rates)
        return q
