"""Step sizes that bring the acceptance rate where it should be."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DualAveraging", "averaged", "coarse_update", "restart", "update"]


class DualAveraging(NamedTuple):
    """Stochastic search for a step size, in logarithms.

    Attributes:
        centre: what the search is drawn towards.
        log_step: the step size to try next.
        mean: its running average, the result.
        error: running mean of target minus acceptance.
        updates: so far.
    """

    centre: float
    log_step: float
    mean: float
    error: float = 0.0
    updates: int = 0


_SHRINKAGE, _OFFSET, _DECAY = 0.05, 10.0, 0.75  # gamma, t_0 and kappa of the paper


def restart(step_size: float) -> DualAveraging:
    """Start a search from a step size."""
    # the paper draws the search to 10 times its start; ours starts from a fair value
    log_step = math.log(step_size)
    return DualAveraging(log_step, log_step, log_step)


def update(search: DualAveraging, acceptance: float, target: float) -> DualAveraging:
    """Take in the acceptance rate of one transition, a mean over chains.

    Args:
        search: the search.
        acceptance: what came of the step size tried.
        target: the rate wanted.

    Returns:
        The search with its next step size.

    References:
        Hoffman & Gelman (2014), The No-U-Turn sampler, 1111.4246, section 3.2.
    """
    # equation 6 of the paper, in x = log of the step size
    count = search.updates + 1
    weight = 1.0 / (count + _OFFSET)
    error = (1 - weight) * search.error + weight * (target - acceptance)
    log_step = search.centre - math.sqrt(count) / _SHRINKAGE * error
    share = count**-_DECAY
    mean = share * log_step + (1 - share) * search.mean
    return DualAveraging(search.centre, log_step, mean, error, count)


def averaged(search: DualAveraging) -> float:
    """Step size that a search has come to."""
    return math.exp(search.mean)


def coarse_update(step_sizes: Tensor, acceptance: Tensor, target: float) -> Tensor:
    """Adapt the step size of each chain by itself, in fast steps that never shrink.

    Args:
        step_sizes: `(chains,)`.
        acceptance: of the last transition, `(chains,)`.
        target: rate wanted.

    Returns:
        The next step sizes.
    """
    # a Robbins-Monro step of constant size in the logarithm
    return step_sizes * torch.exp(1.5 * (acceptance - target))
