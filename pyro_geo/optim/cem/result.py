"""What a cross-entropy search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pyro_geo._showing import notebook
from pyro_geo.ops.arrays import to_numpy

__all__ = ["Basins", "CEMResult"]


class Basins(NamedTuple):
    """Where every life of an instance ended, from a start to a restart or the end.

    Attributes:
        x: best candidate of each life, `(lives, dim)`.
        fun: its cost, `(lives,)`; infinity where none was finite.
        mean: centre at the end, `(lives, dim)`.
        std: standard deviations at the end, `(lives, dim)`.
        elite_fun: mean cost of the last elites, `(lives,)`.
        problem: of each, `(lives,)`, in the flattened batch.
        instance: of each, `(lives,)`.
        converged: whether its variance had fallen below the limit, `(lives,)`.
    """

    x: Tensor
    fun: Tensor
    mean: Tensor
    std: Tensor
    elite_fun: Tensor
    problem: Tensor
    instance: Tensor
    converged: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class CEMResult:
    """What a search has found. `*batch` is the shape of the problems.

    Attributes:
        x: the answer, `(*batch, dim)`.
        fun: its cost, or the mean cost of elites with that score, `(*batch,)`.
        means: centres at the end, `(*batch, instances, dim)`.
        stds: standard deviations at the end, `(*batch, instances, dim)`.
        best_x: best candidate of each instance in all its lives, like `means`.
        best_fun: its cost, `(*batch, instances)`.
        instance: that the answer is from, `(*batch,)`.
        elites: of the last iteration, best first, `(*batch, instances, elites, dim)`;
            NaN where an instance was not live or has fewer than another.
        basins: where each life of each instance ended.
        n_evals: evaluations of each problem, `(*batch,)`.
        n_restarts: of each instance, `(*batch, instances)`.
        n_non_finite: evaluations that gave NaN or an infinity, `(*batch,)`.
        n_fillers: further points that the objective got to fill its array up where
            problems had different numbers of live instances, in all.
        history: lowest cost of each instance after each iteration,
            `(iterations, *batch, instances)`.
        converged: whether a life of an instance ended with its variance below the
            limit, `(*batch, instances)`.
        reason: why the search ended: `"converged"`, `"max_iters"`, `"budget"` or
            `"noise"`; `"unfinished"` while it runs.
    """

    x: Tensor
    fun: Tensor
    means: Tensor
    stds: Tensor
    best_x: Tensor
    best_fun: Tensor
    instance: Tensor
    elites: Tensor
    basins: Basins
    n_evals: Tensor
    n_restarts: Tensor
    n_non_finite: Tensor
    n_fillers: int
    history: Tensor
    converged: Tensor
    reason: str
    citations: tuple[str, ...] = ("decent_cem",)

    def __repr__(self) -> str:
        shape, lowest = tuple(self.x.shape), float(self.fun.min())
        return (
            f"CEMResult(x of {shape}, lowest fun {lowest:g}, "
            f"{int(self.n_evals.sum())} evaluations, ended by {self.reason})"
        )

    def _repr_html_(self) -> str:
        """Show the outcome in a notebook."""
        facts = {
            "lowest fun": float(self.fun.min()),
            "evaluations": int(self.n_evals.sum()),
            "restarts": int(self.n_restarts.sum()),
            "not finite": int(self.n_non_finite.sum()),
            "ended by": self.reason,
        }
        return notebook(repr(self), facts)

    def to_arviz(self) -> Any:
        """Convert the history for ArviZ.

        Returns:
            Group `optimization` with `best_fun` on `iteration`, `problem_0`, ... and
            `instance`, and `n_evals`; an `InferenceData`, or a `DataTree` with ArviZ
            1.x.
        """
        import xarray as xr

        from pyro_geo._compat.arviz import to_container

        batch = [f"problem_{axis}" for axis in range(self.fun.ndim)]
        dims = ["iteration", *batch, "instance"]
        history = to_numpy(self.history)
        coords = dict(zip(dims, map(range, history.shape), strict=True))
        variables = {
            "best_fun": (dims, history),
            "n_evals": (batch, to_numpy(self.n_evals)),
            "converged": ([*batch, "instance"], to_numpy(self.converged)),
        }
        attributes = {"reason": self.reason}
        dataset = xr.Dataset(
            variables, {k: list(v) for k, v in coords.items()}, attributes
        )
        return to_container({"optimization": dataset})
