"""Signs that steps are too long for a part of the density, and what follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["FIRST_TARGET", "long_rejections", "next_target", "shorter", "troubled"]

FIRST_TARGET = 0.8
_TARGETS = (FIRST_TARGET, 0.95, 0.99)

# Where 60 % of transitions are accepted, fewer than one in a thousand lie in a run of
# ten rejections or more, and a run of 40 never comes.
_RUN, _HOPELESS_RUN = 10, 40
_SHARE = 0.01  # of transitions that may diverge, or lie in long runs of rejections
_DIVERGENT, _STANDING = 10, 20  # so many may, however few there are in all


def troubled(rejected: Tensor, diverging: Tensor) -> bool:
    """Say whether transitions diverge, or chains stand still for long.

    Args:
        rejected: whether each transition was, `(transitions, chains)`.
        diverging: whether it diverged, `(transitions, chains)`.

    Returns:
        Whether more than one transition in a hundred diverged (and more than ten did),
        or lies in a run of ten rejections or more (and more than 20 do), or whether a
        chain stood still for 40.

    Example:
        >>> quiet = torch.zeros(50, 8, dtype=torch.bool)
        >>> stuck = quiet.clone()
        >>> stuck[:, 3] = True
        >>> troubled(quiet, quiet), troubled(stuck, quiet)
        (False, True)
    """
    run = run_lengths(rejected)
    allowed = _SHARE * run.numel()
    return (
        int(diverging.sum()) > max(allowed, _DIVERGENT)
        or int((run >= _RUN).sum()) > max(allowed, _STANDING)
        or bool((run >= _HOPELESS_RUN).any())
    )


def long_rejections(rejected: Tensor) -> Tensor:
    """Count the chains that stood still for long.

    Args:
        rejected: whether each transition was, `(transitions, chains)`.

    Returns:
        Which chains have runs of 40 rejections or more, `(chains,)`.
    """
    return (run_lengths(rejected) >= _HOPELESS_RUN).any(0)


def run_lengths(rejected: Tensor) -> Tensor:
    """Length of the run of rejections that each transition lies in.

    Args:
        rejected: whether each transition was, `(transitions, chains)`.

    Returns:
        Lengths, `(transitions, chains)`; 0 where it was accepted.

    Example:
        >>> run_lengths(torch.tensor([[True], [True], [False], [True]])).mT.tolist()
        [[2, 2, 0, 1]]
    """
    index = torch.arange(len(rejected), device=rejected.device)[:, None]
    index = index.expand_as(rejected)
    last = torch.where(rejected, -1, index).cummax(0).values  # accepted before
    later = torch.where(rejected, len(rejected), index).flip(0)
    following = later.cummin(0).values.flip(0)  # accepted after
    return torch.where(rejected, following - last - 1, 0)


def next_target(target: float) -> float | None:
    """Acceptance rate to aim at where the present one is in trouble.

    Args:
        target: the present one.

    Returns:
        The next of 0.8, 0.95 and 0.99; None after the last.
    """
    return next((higher for higher in _TARGETS if higher > target), None)


def shorter(step_size: float, target: float, higher: float) -> float:
    """Guess the step size of a higher acceptance rate.

    Args:
        step_size: that of the present rate.
        target: the present rate.
        higher: the other one.

    Returns:
        The step size: rejections are as frequent as its square.

    References:
        Beskos, Pillai, Roberts, Sanz-Serna & Stuart (2013), Optimal tuning of the
        hybrid Monte Carlo algorithm, 1001.4460: energy errors of order `h**4` in mean,
        their root in the rejections.
    """
    return step_size * math.sqrt((1 - higher) / (1 - target))
