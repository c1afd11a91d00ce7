"""One merge in one subspace on one set of inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge import _averages, _refine, _solve
from pyro_geo.summaries.merge._networks import Network, cast
from pyro_geo.summaries.merge._tasks import Tasks, of_each
from pyro_geo.summaries.merge.metrics import TaskMetric, task_metric

__all__ = ["Merge", "Metrics", "Settings", "Solution", "divergence_on"]

_DAMPING = 1e-2

Metrics = Mapping[str, TaskMetric] | Sequence[TaskMetric]


class Settings(NamedTuple):
    """How metrics are measured and solved for, as in `frechet_merge`.

    Attributes:
        kind: of metrics.
        nodes: of a path.
        iterations: how often path metrics are measured.
        damping: ridge relative to the mean curvature.
        damp_to: where directions without curvature go.
    """

    kind: str
    nodes: int
    iterations: int
    damping: float | None
    damp_to: str


class Solution(NamedTuple):
    """A mean with the metrics that it is the mean in.

    Attributes:
        metrics: task to metric.
        mean: in these metrics.
        residual: energy of what the subspace leaves out.
    """

    metrics: dict[str, TaskMetric]
    mean: _solve.Mean
    residual: float


class Merge:
    """What stays the same from step to step.

    Args:
        tasks: to merge.
        subspace: where to merge.
        divergence: from the tasks' own models, with the weights of the tasks and, if
            metrics are measured, their networks.
        settings: of the metrics.
    """

    def __init__(
        self,
        tasks: Tasks,
        subspace: Subspace,
        divergence: _refine.Divergence,
        settings: Settings,
    ) -> None:
        self.tasks, self.subspace, self.settings = tasks, subspace, settings
        self.networks, self.share = divergence.networks, divergence.weights
        points = [subspace.coords(state) for state in tasks.models.values()]
        self.points = torch.stack(points)  # (tasks, dim)
        self.objective = _refine.Objective(subspace, divergence)

    def solved(self, metrics: Metrics | None) -> Solution:
        """Solve in metrics that were measured before, or are measured here."""
        settings = self.settings
        if metrics is not None:
            return self._given(metrics)
        if settings.kind == "point":
            return self._solved(self._metrics(self.subspace.center))
        end = self.share @ self.points
        best, least = None, torch.inf
        for _ in range(settings.iterations):
            solution = self._solved(self._metrics(end))
            end = solution.mean.coords
            value = self.objective.value(end)
            if best is None or value < least:
                best, least = solution, value
        assert best is not None
        return best

    def _given(self, metrics: Metrics) -> Solution:
        each = of_each(metrics, self.tasks.names, "metrics")
        for metric in each.values():
            metric.check_subspace(self.subspace)
        units = {metric.per for metric in each.values()}
        expected = "metrics of mean losses alone, or of sums over data alone"
        check(len(units) == 1, "metrics", f"units {sorted(units)}", expected)
        return self._solved(each)

    def _metrics(self, end: Tensor) -> dict[str, TaskMetric]:
        kind, nodes = self.settings.kind, self.settings.nodes
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

    def _solved(self, metrics: dict[str, TaskMetric]) -> Solution:
        diagonal = all(metric.matrix.dim() == 1 for metric in metrics.values())
        rows = [
            metric.matrix
            if diagonal or metric.matrix.dim() == 2
            else metric.matrix.diag()
            for metric in metrics.values()
        ]
        damping = self.settings.damping
        if damping is None:
            summed = all(metric.per == "sum" for metric in metrics.values())
            damping = 0.0 if summed else _DAMPING
        flat = self.share @ self.points
        mean = _solve.mean_of(
            torch.stack([row.to(self.points) for row in rows]),
            self.points,
            self.share,
            damping,
            flat if self.settings.damp_to == "mean" else torch.zeros_like(flat),
        )
        pairs = zip(self.share.tolist(), metrics.values(), strict=True)
        residual = sum(weight * metric.residual for weight, metric in pairs)
        return Solution(metrics, mean, residual)


def divergence_on(
    networks: Mapping[str, Network], tasks: Tasks, share: Tensor
) -> _refine.Divergence:
    """Evaluate the tasks' own models, and average their running statistics.

    Args:
        networks: task to network with its inputs; may be empty.
        tasks: with their running statistics.
        share: of the tasks; the statistics get its type and device.

    Returns:
        The divergence from these models.
    """
    whole = tasks.complete(tasks.base, share.cpu())
    names = next(iter(tasks.statistics.values()))
    return _refine.Divergence(
        networks,
        {task: network.reference() for task, network in networks.items()},
        share,
        {name: cast(whole[name], share) for name in names},
    )
