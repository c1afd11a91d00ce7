"""When searches stop, and what replaces their random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Replay", "Rules"]


class Rules(NamedTuple):
    """When instances stop, and what then.

    Attributes:
        min_var: an instance whose variances are all at most this has converged.
        max_iters: iterations of one life of an instance.
        budget: evaluations of each problem; None for as many as `max_iters` whole
            populations.
        restart: whether an instance that stopped begins again.
        score: what decides between instances.
        allow_infeasible: whether a first population without any finite cost is
            suffered.
    """

    min_var: float
    max_iters: int
    budget: int | None
    restart: bool
    score: str
    allow_infeasible: bool


class Replay(NamedTuple):
    """What replaces random numbers.

    Attributes:
        noise: gives the standard noise of an iteration, `(problems, rows, dim)`; None
            for draws.
        iterations: that there is noise for.
        candidates: the first candidates of the first instances in the first
            iteration, `(problems, instances, candidates, dim)`; None for none.
    """

    noise: Callable[[int], Tensor] | None = None
    iterations: float = math.inf
    candidates: Tensor | None = None
