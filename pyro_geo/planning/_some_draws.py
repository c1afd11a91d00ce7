"""Fewer draws in the place of many: a resample, one that stands for all, or some."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.ops.weights import systematic
from pyro_geo.planning.posteriors import Knowledge

__all__ = ["certain", "reduced", "rows_of"]


def reduced(known: Knowledge, count: int) -> Knowledge:
    """Resample where there are more draws than so many.

    Where few draws have all the weight, most are drawn many times. Each is returned
    once, with the share of its times as weight.

    Args:
        known: the draws.
        count: how many to keep at most.

    Returns:
        The draws that are left.
    """
    if len(known.theta) <= count:
        return known
    drawn = systematic(known.log_weights, torch.rand(()), count)
    rows, times = drawn.unique(return_counts=True)
    kept = rows_of(known, rows)
    return kept._replace(log_weights=(times.to(known.log_weights) / count).log())


def certain(known: Knowledge) -> Knowledge:
    """Make one draw that stands for all.

    Args:
        known: the draws.

    Returns:
        The mean of the parameters; the most probable draw where the state is hidden,
        since a belief goes with each draw.
    """
    w = known.log_weights
    if known.states is not None:
        return rows_of(known, w.argmax(-1, keepdim=True))
    share = w.softmax(-1)[:, None].to(known.theta)
    return Knowledge((share * known.theta).sum(0, keepdim=True), w.new_zeros(1))


def rows_of(known: Knowledge, rows: Tensor) -> Knowledge:
    """Take some of the draws, with their weights.

    Args:
        known: the draws.
        rows: their numbers.

    Returns:
        These draws.
    """
    belief = None if known.belief is None else known.belief[rows]
    theta, w = known.theta[rows], known.log_weights[rows]
    return Knowledge(theta, w, known.states, belief)
