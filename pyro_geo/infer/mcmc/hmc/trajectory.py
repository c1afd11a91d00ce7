"""Trajectory lengths: how far to go, and the jitter around it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LengthSearch", "halton", "jumps", "leapfrogs", "length_update"]


class LengthSearch(NamedTuple):
    """Stochastic ascent on the logarithm of the trajectory length.

    Attributes:
        log_length: where it is.
        mean: running average, the result.
        jumps: running means of what :func:`jumps` returns.
        first: running mean of the gradient.
        second: running mean of its square.
        updates: so far.
    """

    log_length: float
    mean: float
    jumps: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    first: float = 0.0
    second: float = 0.0
    updates: int = 0


# Adam's step and its two decay rates, and the decay of the two running averages
_RATE, _FIRST, _SECOND, _MEMORY, _JUMPS = 0.05, 0.5, 0.95, 0.95, 0.8
_ENOUGH = 16  # chains from which on a gradient is trusted in full
_SHORTEST, _LONGEST = 0.1, 12.0  # whitened: two periods of a normal density
_COST = 0.25  # power of the length that each jump is divided by


def halton(index: int) -> float:
    """Term of van der Corput's sequence in base 2, in (0, 1).

    Args:
        index: from 0.

    Returns:
        The term.

    Example:
        >>> [halton(i) for i in range(3)]
        [0.5, 0.25, 0.75]
    """
    # the binary digits of the index, mirrored at the point
    index, value, digit = index + 1, 0.0, 0.5
    while index:
        value += digit * (index & 1)
        index >>= 1
        digit /= 2
    return value


def leapfrogs(
    length: float, jitter: float, index: int, step_size: float, most: int
) -> int:
    """Number of leapfrog steps of one transition.

    It is the same for all chains and does not depend on where they are, so that each
    transition leaves the density invariant.

    Args:
        length: mean trajectory length.
        jitter: largest relative deviation from it.
        index: of the transition.
        step_size: of a leapfrog step.
        most: leapfrog steps allowed.

    Returns:
        The number of steps.
    """
    # a quasi-random length: a fixed one can be a period, which returns to the start
    wanted = length * (1 + jitter * (2 * halton(index) - 1))
    return min(most, max(1, math.ceil(wanted / step_size - 1e-9)))


def jumps(
    start: Tensor, end: Tensor, velocity: Tensor, acceptance: Tensor, time: float
) -> tuple[float, float, float, float]:
    r"""Squared jumps of whitened positions `z` and of their squares, with slopes.

    .. math::
        A = \operatorname{E} |z' - z|^2, \qquad
        B = \tfrac14 \operatorname{E} (|z'|^2 - |z|^2)^2

    `B` is the ChEES criterion.

    Args:
        start: `z`, `(chains, dim)`.
        end: `z'` at the end of the trajectories.
        velocity: whitened velocities there.
        acceptance: acceptance rates, `(chains,)`.
        time: length of the trajectories.

    Returns:
        `A`, `B` and their derivatives in the logarithm of the length, means over
        chains weighted by acceptance; zeros where none is finite.

    References:
        Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting
        trajectory lengths in Hamiltonian Monte Carlo, section 3.
    """
    jump = end - start
    change = end.square().sum(-1) - start.square().sum(-1)
    # the last two are derivatives in log t, by dz'/dt = velocity: t dA/dt and t dB/dt
    columns = torch.stack(
        [
            jump.square().sum(-1),
            0.25 * change.square(),
            2 * time * (jump * velocity).sum(-1),
            time * change * (end * velocity).sum(-1),
        ]
    )
    usable = columns.isfinite().all(0) & acceptance.isfinite()
    weights = torch.where(usable, acceptance, 0.0)
    total = float(weights.sum())
    if total <= 0:
        return 0.0, 0.0, 0.0, 0.0
    means = (torch.where(usable, columns, 0.0) * weights).sum(1) / total
    a, b, slope_a, slope_b = means.tolist()
    return a, b, slope_a, slope_b


def length_update(
    search: LengthSearch,
    measured: tuple[float, ...],
    num_chains: int,
) -> LengthSearch:
    r"""Take one step of Adam up the criterion `A B` over a root of the length `t`.

    .. math:: \log A + \log B - \tfrac12 \log t

    For a normal density in its own metric, `A` alone is largest at half a period, where
    squares of positions never change. `B` alone is largest at a quarter, where
    successive positions are independent. The maximum of the product lies between the
    two: means converge faster than from independent draws, squares hardly slower. `B`
    has a maximum in every period; the product prefers the first.

    Args:
        search: the search.
        measured: what :func:`jumps` returned.
        num_chains: with fewer chains the gradient is noisier, and the ascent slower;
            else noise would drive it to ever longer trajectories.

    Returns:
        The search with its next length.
    """
    if not measured[0] > 0:
        return search
    count = search.updates + 1
    trust = min(1.0, num_chains / _ENOUGH)
    share = max((1 - _JUMPS) * trust**0.5, 1 / count)
    a, b, slope_a, slope_b = smooth = tuple(
        old + share * (new - old)
        for old, new in zip(search.jumps, measured, strict=True)
    )
    # half the gradient of the criterion; Adam's steps do not depend on the factor
    gradient = 0.5 * (slope_a / a + slope_b / b) - _COST if a * b > 0 else 0.0
    # Adam (Kingma & Ba 2015, algorithm 1), one dimension
    first = _FIRST * search.first + (1 - _FIRST) * gradient
    second = _SECOND * search.second + (1 - _SECOND) * gradient**2
    size = math.sqrt(second / (1 - _SECOND**count)) + 1e-12
    rate = _RATE * trust**0.5
    log_length = search.log_length + rate * first / (1 - _FIRST**count) / size
    log_length = min(max(log_length, math.log(_SHORTEST)), math.log(_LONGEST))
    share = max(1 - _MEMORY, 1 / count)
    mean = search.mean + share * (log_length - search.mean)
    return LengthSearch(log_length, mean, smooth, first, second, count)
