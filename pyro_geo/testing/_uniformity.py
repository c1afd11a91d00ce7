"""Whether ranks are uniform: an exact test of the whole empirical distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["uniformity_p_values"]

# Thresholds are found among the pointwise probabilities, whose last bits differ
# between points that are mirror images of each other.
_ROUNDING = 1e-9


def uniformity_p_values(ranks: Tensor, num_draws: int) -> Tensor:
    r"""Test ranks for uniformity on `0 ... num_draws` by their distribution function.

    The number of ranks below `i` is binomial for every `i`. The statistic is the
    smallest two-sided binomial probability over all `i`, so that a fault anywhere
    counts, in the tails as in the middle; its own distribution under uniformity comes
    from the chance that a path of counts stays where all probabilities are larger,
    which is computed step by step, without simulation or asymptotics.

    Args:
        ranks: `(replicates, quantities)`.
        num_draws: largest rank.

    Returns:
        p-values, `(quantities,)`: under uniformity at most `a` with probability at most
        `a`.

    References:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity
        and its applications in goodness-of-fit evaluation and multiple sample
        comparison, algorithm 1.
    """
    replicates, quantities = ranks.shape
    counts = torch.stack([(ranks < i).sum(0) for i in range(1, num_draws + 1)])
    pointwise = _two_sided(replicates, num_draws)  # (num_draws, replicates + 1)
    threshold = pointwise.gather(1, counts).amin(0)  # (quantities,)
    inside = pointwise[:, :, None] > threshold * (1 + _ROUNDING)

    choose, more, left = _choices(replicates)
    possible = (more >= 0) & (left >= 0)
    state = torch.zeros(replicates + 1, quantities, dtype=torch.float64)
    state[0] = 1.0
    for i in range(num_draws):
        # of the ranks not yet below, each falls in the next bin with this chance
        chance = 1.0 / (num_draws + 1 - i)
        log = choose + more * math.log(chance) + left * math.log1p(-chance)
        steps = torch.where(possible, log.exp(), 0.0)  # from columns to rows
        state = torch.where(inside[i], steps @ state, 0.0)
    return (1.0 - state.sum(0)).clamp(0.0, 1.0)


def _two_sided(trials: int, num_draws: int) -> Tensor:
    """Twice the smaller tail of every count at every point of the grid."""
    points = torch.arange(1, num_draws + 1, dtype=torch.float64) / (num_draws + 1)
    choose, more, left = (x[:, 0] for x in _choices(trials))  # all are still to come
    log = choose + more * points[:, None].log() + left * (-points[:, None]).log1p()
    mass = log.exp()
    lower = mass.cumsum(1)
    upper = mass.flip(1).cumsum(1).flip(1)
    return (2 * torch.minimum(lower, upper)).clamp(max=1.0)


def _choices(trials: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-binomial coefficients of going from one count (column) to another (row).

    Returns:
        The coefficients, how many more there are, and how many are left.
    """
    counts = torch.arange(trials + 1)
    more, left = (
        counts[:, None] - counts,
        (trials - counts)[:, None].expand(-1, len(counts)),
    )
    table = torch.lgamma(counts.double() + 1)
    choose = table[trials - counts] - table[more.clamp(min=0)] - table[left]
    return choose, more.double(), left.double()
