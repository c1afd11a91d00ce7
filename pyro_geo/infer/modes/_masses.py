r"""The mass around each mode, by draws from Student densities of its curvature.

With the Laplace densities of all modes known, a partition of unity
:math:`r_k(q) = w_k t_k(q) / \sum_j w_j t_j(q)` says how much of a point belongs to
which mode, and

.. math:: m_k = \int r_k p = E_{q \sim g_k}\Bigl[\frac{r_k(q)\, p(q)}{g_k(q)}\Bigr]

for any proposal. Half of the draws are from the mode's own density, of heavier tails
than a normal, half from a Cauchy density of the same shape: with the mixture of both as
the proposal, weights are bounded where the tails of the mode are no longer than that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.modes._basins import distances
from pyro_geo.infer.modes._climb import Climber
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.weights import log_mean, smooth

__all__ = ["Masses", "log_masses"]

_DEGREES = 5.0  # of freedom of the Student densities
_FEW = 1.0  # of every other draw, for modes with the tails of a Cauchy


class Masses(NamedTuple):
    """Masses of modes by draws.

    Attributes:
        log_mass: logarithm of each, `(modes,)`.
        khat: tail of the weights, `(modes,)`.
    """

    log_mass: Tensor
    khat: Tensor


def log_masses(
    climber: Climber,
    q: Tensor,
    values: Tensor,
    vectors: Tensor,
    log_laplace: Tensor,
    chosen: Tensor,
    num_draws: int,
    noise: torch.Generator,
) -> Masses:
    """Estimate the mass of some modes by importance sampling.

    Args:
        climber: of the density.
        q: all modes, `(modes, dim)`.
        values: positive eigenvalues of their precisions, `(modes, dim)`.
        vectors: eigenvectors.
        log_laplace: logarithms of their masses by Laplace's method, `(modes,)`.
        chosen: which ones to estimate, `(chosen,)` indices.
        num_draws: for each of them.
        noise: randomness.

    Returns:
        The masses of those chosen.
    """
    n, dim = len(chosen), q.shape[1]
    normal = torch.randn(n, num_draws, dim, generator=noise, dtype=torch.float64).to(q)
    shape = (n, num_draws, int(_DEGREES))
    squares = torch.randn(shape, generator=noise, dtype=torch.float64).square()
    # of unit scale at the mode: a Student vector is a normal over a root of chi-square
    few = torch.arange(num_draws) % 2 == 1
    chi = torch.where(few, squares[..., : int(_FEW)].sum(-1), squares.sum(-1))
    stretch = (torch.where(few, _FEW, _DEGREES) / chi).sqrt().to(q)
    unit = normal * stretch[..., None]
    own_values = values[chosen][:, None]
    x = q[chosen][:, None] + (unit * own_values.rsqrt()) @ vectors[chosen].mT
    flat = x.reshape(-1, dim)
    log_p = climber.log_prob(flat)

    def densities(rows: Tensor) -> Tensor:
        square = distances(rows, q, values, vectors).square()
        return log_student(square, values)

    weighted = map_chunks(densities, flat, 512) + log_laplace
    own = chosen.repeat_interleave(num_draws)[:, None]
    share = weighted.gather(1, own)[:, 0] - weighted.logsumexp(-1)
    far = unit.square().sum(-1)
    both = [log_student(far, own_values, nu) for nu in (_DEGREES, _FEW)]
    log_q = torch.logaddexp(*both) - math.log(2)
    log_w = (share + log_p).reshape(n, num_draws) - log_q
    found = [_mass(row) for row in log_w.double()]
    mass, tails = torch.tensor(found, dtype=torch.float64).T
    return Masses(mass.to(q), tails.to(q))


def _mass(log_weights: Tensor) -> tuple[float, float]:
    """Take the mean of weights whose tail is smoothed.

    Returns:
        Its logarithm, and the shape of the tail: infinite where most draws have no
        density at all.
    """
    positive = log_weights[log_weights > -math.inf]
    if len(positive) < max(30, len(log_weights) // 10):
        return float(log_mean(log_weights)), math.inf
    smoothed, tail = smooth(positive)
    # normalised, but below the tail the same: a middle weight tells the constant
    middle = int(positive.median(0).indices)
    total = float(positive[middle] - smoothed[middle])
    return total - math.log(len(log_weights)), tail


def log_student(square: Tensor, values: Tensor, nu: float = _DEGREES) -> Tensor:
    """Log-density of a Student vector at a squared Mahalanobis distance."""
    dim = values.shape[-1]
    constant = math.lgamma((nu + dim) / 2) - math.lgamma(nu / 2)
    constant -= 0.5 * dim * math.log(nu * math.pi)
    root = 0.5 * values.log().sum(-1)
    return constant + root - 0.5 * (nu + dim) * torch.log1p(square / nu)
