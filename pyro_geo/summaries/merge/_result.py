"""A merged network, and what it costs each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check, check_number
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge import _refine, _solve
from pyro_geo.summaries.merge._choice import Choice
from pyro_geo.summaries.merge.metrics import TaskMetric

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MergeResult", "task_report"]


@dataclass(frozen=True, repr=False)
class MergeResult(Shown):
    r"""A merged network. Made by :func:`~pyro_geo.summaries.merge.frechet_merge`.

    Attributes:
        state_dict: its tensors, in the order and the types of the base.
        coords: its coordinates in the subspace, `(dim,)`.
        variance: :math:`V^*`, weighted squared distance of the tasks from the mean in
            their metrics.
        residual: weighted energy of what the subspace leaves out of the tasks.
        gap: how much larger the variance is at the plain mean.
        report: an `xarray.Dataset` over `task`.
        subspace: it lies in.
        metrics: task to the metric that was used last.
        choice: what inputs that were held back have decided: `start` and number of
            `steps` of the refinement, with the divergences on these inputs of all
            `starts` and along the `path`; None where none were held back.
    """

    citations: ClassVar[tuple[str, ...]] = ("epimer",)

    state_dict: dict[str, Tensor]
    coords: Tensor
    variance: float
    residual: float
    gap: float
    report: xr.Dataset
    subspace: Subspace
    metrics: dict[str, TaskMetric]
    choice: Choice | None = None

    def _shown_facts(self) -> dict[str, object]:
        return {
            "tasks": len(self.metrics),
            "tensors": len(self.state_dict),
            "dimension": len(self.coords),
            "variance": self.variance,
            "residual": self.residual,
            "gap": self.gap,
        }

    def precision(self, prior_precision: float = 1.0) -> Tensor:
        r"""Precision of the coordinates, :math:`\sum_k n_k A_k + \lambda_0 I`.

        Args:
            prior_precision: :math:`\lambda_0`, in each direction.

        Returns:
            The matrix, `(dim, dim)`.
        """
        check_number("prior_precision", prior_precision)
        eye = torch.eye(len(self.coords)).to(self.coords)
        total = prior_precision * eye
        for metric in self.metrics.values():
            part = metric.matrix if metric.matrix.dim() == 2 else metric.matrix.diag()
            times = 1.0 if metric.per == "sum" else metric.count
            total = total + times * part.to(total)
        return total

    def covariance_factor(self, prior_precision: float = 1.0) -> Tensor:
        r"""Root `F` of :meth:`covariance`, :math:`F F^\top`.

        `subspace.lift(F @ noise)` turns standard normal noise into differences of
        parameters of that covariance.

        Args:
            prior_precision: in each direction.

        Returns:
            The root, `(dim, dim)`.
        """
        root = _solve.jittered_root(self.precision(prior_precision), "precision")
        eye = torch.eye(len(root)).to(root)
        return torch.linalg.solve_triangular(root.T, eye, upper=True)

    def covariance(self, prior_precision: float = 1.0) -> Tensor:
        r"""Covariance of the coordinates from all tasks' data.

        Of the parameters it is :math:`B C B^\top`: zero in every direction outside
        the subspace. It says how firmly data hold the merged network inside the
        subspace, and is no posterior of the network.

        Args:
            prior_precision: in each direction.

        Returns:
            `C`, `(dim, dim)`.
        """
        factor = self.covariance_factor(prior_precision)
        return factor @ factor.T

    def __repr__(self) -> str:
        numbers = f"variance {self.variance:.4g}, residual {self.residual:.4g}"
        return f"MergeResult({len(self.metrics)} tasks, {self.subspace!r}, {numbers})"


def task_report(
    metrics: Mapping[str, TaskMetric],
    weights: Tensor,
    objective: _refine.Objective,
    z: Tensor,
    choice: Choice | None,
) -> xr.Dataset:
    """Tabulate the tasks of a merge.

    Args:
        metrics: task to metric.
        weights: of the tasks.
        objective: with the networks, if there are any.
        z: coordinates of the merged network.
        choice: made on inputs that were held back, if any.

    Returns:
        A dataset over `task`; `kl` is there where there are inputs.
    """
    import xarray as xr

    check(bool(metrics), "metrics", "none", "one for each task")
    rows = {
        "weight": weights.tolist(),
        "predicted_kl": [metric.predicted_kl(z) for metric in metrics.values()],
        "trace": [metric.trace for metric in metrics.values()],
        "kept": [metric.kept for metric in metrics.values()],
        "residual": [metric.residual for metric in metrics.values()],
    }
    if objective.divergence.networks:
        rows["kl"] = list(objective.by_task(z).values())
    if choice is not None:
        rows["held_out_kl"] = list(choice.kl.values())
    return xr.Dataset(
        {name: ("task", np.asarray(values)) for name, values in rows.items()},
        coords={"task": list(metrics)},
        attrs={"citations": MergeResult.citations},
    )
