r"""The Fréchet mean of networks in a subspace, each in the metric of its own task."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.errors import SaturatedMetricWarning, SubspaceResidualWarning
from pyro_geo.geometry.likelihoods import likelihood_named
from pyro_geo.geometry.projection import Forward
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge import _averages, _refine, _solve
from pyro_geo.summaries.merge._networks import Network, cast, read_networks
from pyro_geo.summaries.merge._result import MergeResult, task_report
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Tasks,
    Weights,
    of_each,
    read_tasks,
    read_weights,
)
from pyro_geo.summaries.merge.metrics import TaskMetric, task_metric
from pyro_geo.summaries.merge.subspaces import build_subspace

__all__ = ["MergeResult", "frechet_merge"]

_APART = 1e3  # traces of two tasks
_NOTHING = 1e-8  # trace of one
_DAMPING = 1e-2

Metrics = Mapping[str, TaskMetric] | Sequence[TaskMetric]


def frechet_merge(
    base: StateDict,
    models: Models,
    metrics: Metrics | None = None,
    subspace: Subspace | None = None,
    *,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward] | None = None,
    inputs: Mapping[str, Tensor] | Sequence[Tensor] | None = None,
    weights: Weights = "uniform",
    kind: Literal["path", "point"] = "path",
    nodes: int = 2,
    iterations: int = 2,
    damping: float | None = None,
    damp_to: Literal["mean", "base"] = "mean",
    refine: Literal["kl"] | None = "kl",
    steps: int = 10,
    starts: Sequence[StateDict] = (),
    scale: float = 1.0,
    likelihood: str = "categorical",
    variance: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> MergeResult:
    r"""Merge fine-tuned networks at the point that costs their tasks least.

    .. math:: z^* = \arg\min_z \sum_k w_k (z - z_k)^\top A_k (z - z_k)

    With metrics alone this is algebra, without data. With unlabelled inputs of each
    task, metrics are measured along the paths to the merged network and measured
    again, and the result is then refined by the divergence itself,

    .. math:: \min_z \sum_k w_k E_x\, KL(p_{\theta_k} \,\|\, p_{\theta_0 + B z})

    Equal metrics give the mean, metrics on disjoint coordinates the sum of the
    differences, diagonal metrics in all coordinates Fisher merging.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        metrics: of :func:`~pyro_geo.summaries.merge.measure`, for each task; measured
            here if None.
        subspace: of :func:`~pyro_geo.summaries.merge.build_subspace`; its defaults if
            None.
        forwards: function of parameters and inputs to outputs, one for all tasks or
            one for each. Each gets the merged tensors and its task's other tensors.
        inputs: unlabelled inputs of each task, `(n, ...)`.
        weights: `"uniform"`, or positive numbers.
        kind: of metrics measured here.
        nodes: of a path.
        iterations: how often path metrics are measured and solved for.
        damping: ridge relative to the mean curvature; 0.01 for networks and none for
            posteriors if None.
        damp_to: where directions that no task cares about go.
        refine: `"kl"` for the refinement, where there are inputs; None for none.
        steps: of the refinement, at most.
        starts: parameters that the refinement may begin from, beside the base, the
            mean and the solution: what was passed as `extra` to the subspace.
        scale: of the final difference from the base.
        likelihood: of the outputs.
        variance: of the noise, for `"gaussian"`.
        shared: whether the tensor of a name is merged; by default all are.
        chunk_size: directions at once.
        batch_size: inputs at once.

    Returns:
        The merged network with its report. A sum of metrics that is singular is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`, a metric from another
        subspace a :class:`~pyro_geo.errors.LayoutMismatchError`.

    Warns:
        SaturatedMetricWarning: the metric of one task is nothing beside another's.
        SubspaceResidualWarning: the subspace leaves out more than the merge costs.

    References:
        Lu et al. (2026), Model Merging on Loss Landscape: A Geometry Perspective,
        arXiv 2605.26693; Matena and Raffel (2022), Merging models with
        Fisher-weighted averaging, arXiv 2111.09832.

    Example:
        >>> base = {"w": torch.zeros(3, 2)}
        >>> models = {"a": {"w": torch.eye(3, 2)}, "b": {"w": -torch.eye(3, 2)}}
        >>> x = torch.randn(40, 3)
        >>> merged = frechet_merge(
        ...     base,
        ...     models,
        ...     subspace=build_subspace(base, models, "span"),
        ...     forwards=lambda p, x: x @ p["w"],
        ...     inputs={"a": x, "b": x},
        ... )
        >>> merged.state_dict["w"].abs().max() < 1e-6
        tensor(True)
    """
    check_choice("kind", kind, ("path", "point"))
    check_choice("damp_to", damp_to, ("mean", "base"))
    check_choice("refine", refine, ("kl", None))
    check_count("iterations", iterations)
    check_count("steps", steps)
    check_count("nodes", nodes)
    check_number("damping", damping)
    check_number("scale", scale, strict=True)
    both = (forwards is None) == (inputs is None)
    check(both, "inputs", "one of forwards and inputs", "both or none")
    given = metrics is not None or inputs is not None
    check(given, "metrics", None, "metrics, or forwards and inputs to measure them")
    tasks = read_tasks(base, models, shared=shared)
    share = read_weights(weights, tasks.names)
    if subspace is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what read_tasks has just said
            subspace = build_subspace(base, models, weights=share, shared=shared)
    networks: dict[str, Network] = {}
    if forwards is not None and inputs is not None:
        networks = read_networks(
            tasks,
            forwards,
            inputs,
            likelihood_named(likelihood, variance),
            subspace.center,
            chunk_size=chunk_size,
            batch_size=batch_size,
        )
    merge = _Merge(tasks, share, subspace, networks, damping, damp_to)
    found = (
        merge.from_metrics(metrics)
        if metrics is not None
        else merge.measured(kind, nodes, iterations)
    )
    z, history = found.mean.coords, []
    if networks and refine:
        z, history = _refine.refine(merge.objective, merge.best(found, starts), steps)
    _warn(tasks.names, found)
    return merge.result(found, scale * z, history)


class _Solution(NamedTuple):
    """A mean with the metrics that it is the mean in."""

    metrics: dict[str, TaskMetric]
    mean: _solve.Mean
    residual: float


class _Merge:
    """One merge: what stays the same from step to step."""

    def __init__(
        self,
        tasks: Tasks,
        share: Tensor,
        subspace: Subspace,
        networks: dict[str, Network],
        damping: float | None,
        damp_to: str,
    ) -> None:
        self.tasks, self.subspace, self.networks = tasks, subspace, networks
        self.share = share.to(subspace.center)
        self.damping, self.damp_to = damping, damp_to
        points = [subspace.coords(state) for state in tasks.models.values()]
        self.points = torch.stack(points)  # (tasks, dim)
        references = {task: network.reference() for task, network in networks.items()}
        self.objective = _refine.Objective(
            subspace, networks, references, self.share, self._statistics()
        )

    def _statistics(self) -> dict[str, Tensor]:
        """Averaged running statistics, for evaluations of a merged network."""
        whole = self.tasks.complete(self.tasks.base, self.share.cpu())
        names = next(iter(self.tasks.statistics.values()))
        return {name: cast(whole[name], self.share) for name in names}

    def from_metrics(self, metrics: Metrics) -> _Solution:
        """Solve in metrics that were measured before."""
        each = of_each(metrics, self.tasks.names, "metrics")
        for metric in each.values():
            metric.check_subspace(self.subspace)
        units = {metric.per for metric in each.values()}
        expected = "metrics of mean losses alone, or of sums over data alone"
        check(len(units) == 1, "metrics", f"units {sorted(units)}", expected)
        return self._solved(each)

    def measured(self, kind: str, nodes: int, iterations: int) -> _Solution:
        """Measure, solve and measure again, and take the best solution."""
        if kind == "point":
            return self._solved(self._metrics(kind, self.subspace.center, nodes))
        end = self.share @ self.points
        best, least = None, torch.inf
        for _ in range(iterations):
            solution = self._solved(self._metrics(kind, end, nodes))
            end = solution.mean.coords
            value = self.objective.value(end)
            if best is None or value < least:
                best, least = solution, value
        assert best is not None
        return best

    def best(self, found: _Solution, starts: Sequence[StateDict]) -> Tensor:
        """Where to start the refinement: a bad solution would trap it."""
        points = [self.subspace.coords(state) for state in starts]
        mean = found.mean
        points += [torch.zeros_like(mean.flat), mean.flat, mean.coords]
        return min(points, key=self.objective.value)

    def result(self, found: _Solution, z: Tensor, history: list[float]) -> MergeResult:
        """Write the merged network and its report."""
        merged = self.subspace.point(z)
        report = task_report(found.metrics, self.share, self.objective, z)
        report.attrs.update(
            variance=found.mean.variance,
            residual=found.residual,
            gap=found.mean.gap,
            objective=history,
        )
        return MergeResult(
            self.tasks.complete(merged, self.share.cpu()),
            z,
            found.mean.variance,
            found.residual,
            found.mean.gap,
            report,
            self.subspace,
            found.metrics,
        )

    def _metrics(self, kind: str, end: Tensor, nodes: int) -> dict[str, TaskMetric]:
        there = self.subspace.point(end)
        found = {}
        for task, network in self.networks.items():
            matrix = (
                functools.partial(network.metric, network.merged, self.subspace)
                if kind == "point"
                else functools.partial(
                    _averages.path_metric, network, there, self.subspace, nodes=nodes
                )
            )
            found[task] = task_metric(
                network,
                self.subspace,
                matrix,
                count=float(len(network.inputs)),
                kind=kind,
                family=network.likelihood.name,
                end=end,
            )
        return found

    def _solved(self, metrics: dict[str, TaskMetric]) -> _Solution:
        diagonal = all(metric.matrix.dim() == 1 for metric in metrics.values())
        rows = [
            metric.matrix
            if diagonal or metric.matrix.dim() == 2
            else metric.matrix.diag()
            for metric in metrics.values()
        ]
        damping = self.damping
        if damping is None:
            summed = all(metric.per == "sum" for metric in metrics.values())
            damping = 0.0 if summed else _DAMPING
        flat = self.share @ self.points
        mean = _solve.mean_of(
            torch.stack([row.to(self.points) for row in rows]),
            self.points,
            self.share,
            damping,
            flat if self.damp_to == "mean" else torch.zeros_like(flat),
        )
        pairs = zip(self.share.tolist(), metrics.values(), strict=True)
        residual = sum(weight * metric.residual for weight, metric in pairs)
        return _Solution(metrics, mean, residual)


def _warn(names: Sequence[str], found: _Solution) -> None:
    traces = [metric.trace for metric in found.metrics.values()]
    least = names[traces.index(min(traces))]
    if min(traces) < _NOTHING or max(traces) > _APART * min(traces):
        warnings.warn(
            SaturatedMetricWarning(
                "the metric of one task is nothing beside that of another",
                where=f"task {least!r}",
                found=f"traces from {min(traces):.3g} to {max(traces):.3g}",
                expected=f"traces within a factor of {_APART:g} and above {_NOTHING:g}",
                todo="Measure along the path, or refine by the divergence.",
            ),
            stacklevel=3,
        )
    if found.residual > found.mean.variance:
        warnings.warn(
            SubspaceResidualWarning(
                "the subspace leaves out more than the merge costs",
                found=f"residual energy {found.residual:.3g}",
                expected=f"at most the variance {found.mean.variance:.3g}",
                todo="Increase `rank_fraction`, or add directions by `extra`.",
            ),
            stacklevel=3,
        )
