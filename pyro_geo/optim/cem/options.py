"""The options that all cross-entropy searches share, and their checks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.errors import BoundsError, EliteCollapseWarning, ElitesError
from pyro_geo.optim.cem.layouts import Group
from pyro_geo.optim.cem.normal import truncated_variance
from pyro_geo.optim.cem.step import Rates

__all__ = ["SCORES", "Options", "Score", "check_candidates", "warn_of_one_elite"]

Score = Literal["best_sample", "mean", "elite_mean"]
SCORES: tuple[Score, ...] = ("best_sample", "mean", "elite_mean")


class Options(NamedTuple):
    """What every cross-entropy search has; see `CEM` for their meaning."""

    pop_size: int
    elite_frac: float
    alpha: float
    min_var: float
    max_iters: int
    trunc: float
    variance_correction: bool
    restart: bool
    score: Score
    polish: int | None
    allow_infeasible: bool

    def checked(self) -> Options:
        """Refuse values out of range.

        Returns:
            The options.

        Raises:
            ElitesError: no candidate, or more than all of them, would be elite.
        """
        check_count("pop_size", self.pop_size)
        share = self.elite_frac
        if not 0.0 < share <= 1.0:
            raise ElitesError(
                "share of elites out of range",
                where="argument elite_frac",
                found=share,
                expected="above 0 and at most 1",
                todo="Pass such a share or leave it out.",
            )
        check(0.0 <= self.alpha < 1.0, "alpha", self.alpha, "at least 0 and below 1")
        check_number("min_var", self.min_var)
        check_count("max_iters", self.max_iters)
        check(self.trunc > 0, "trunc", self.trunc, "above 0, or infinity")
        check_choice("score", self.score, SCORES)
        check_count("polish", self.polish)
        good = self.polish is None or self.score == "best_sample"
        check(good, "polish", self.polish, "None unless score is 'best_sample'")
        return self

    def rates(self) -> Rates:
        """Give the numbers of an update."""
        inflate = 1.0
        if self.variance_correction:
            inflate = 1.0 / truncated_variance(self.trunc)
        return Rates(self.alpha, self.trunc, inflate)


def warn_of_one_elite(groups: Sequence[Group], stacklevel: int) -> None:
    """Warn where the spread of an instance shrinks whatever its candidates cost.

    Args:
        groups: populations of the instances.
        stacklevel: of the caller to name.
    """
    alone = [g.pop_size for g in groups if g.num_elites == 1 and g.pop_size > 1]
    if not alone:
        return
    message = EliteCollapseWarning(
        "an instance has one elite, and one elite has no variance",
        where="options pop_size and elite_frac",
        found=f"populations of {alone}",
        expected="at least two elites in each",
        todo="Nothing needs doing where instances restart; else raise one of the two.",
    )
    warnings.warn(message, stacklevel=stacklevel + 1)


def check_candidates(
    candidates: Tensor | None,
    shape: tuple[int, ...],
    pop_size: Sequence[int],
    like: Tensor,
) -> Tensor | None:
    """Check candidates that are given for the first iteration.

    Args:
        candidates: `(*batch_shape, instances, candidates, dim)`, or without the axis of
            instances for the first alone; None for none.
        shape: of the problems.
        pop_size: population of each instance.
        like: a tensor of the search, `(problems, dim)`.

    Returns:
        The candidates, `(problems, instances, candidates, dim)`.
    """
    if candidates is None:
        return None
    dim, batch = like.shape[-1], len(shape)
    if candidates.ndim == batch + 2:
        candidates = candidates.unsqueeze(batch)
    expected = f"{(*shape, len(pop_size))} and candidates, {dim}"
    found = tuple(candidates.shape)
    good = len(found) == batch + 3 and found[:batch] == shape and found[-1] == dim
    good = good and found[batch] in (1, len(pop_size))
    check(good, "candidates", found, expected)
    few = found[-2] <= min(pop_size[: found[batch]])
    check(few, "candidates", found[-2], f"at most a population, {min(pop_size)}")
    finite = bool(candidates.isfinite().all())
    check(finite, "candidates", "NaN or infinity", "finite", error=BoundsError)
    return candidates.detach().to(like).reshape(math.prod(shape), *found[batch:])
