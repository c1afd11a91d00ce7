r"""Whether curvature helps a merge, or its noise costs more than it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.summaries.merge import _solve
from pyro_geo.summaries.merge._tasks import Weights, of_each, read_weights, task_names
from pyro_geo.summaries.merge.metrics import TaskMetric

__all__ = ["CurvatureGain", "curvature_gain"]


class CurvatureGain(NamedTuple):
    """What curvature brings and what its noise costs, both in the second metrics.

    Attributes:
        gain: by how much the variance at the plain mean exceeds the least one.
        error: by how much the variance at the mean in the first metrics exceeds it.
        helps: whether the error is smaller than the gain.
    """

    gain: float
    error: float
    helps: bool


def curvature_gain(
    first: Mapping[str, TaskMetric] | Sequence[TaskMetric],
    second: Mapping[str, TaskMetric] | Sequence[TaskMetric],
    *,
    weights: Weights = "uniform",
    damping: float = 1e-2,
) -> CurvatureGain:
    r"""Judge metrics of one half of the inputs by those of the other half.

    With :math:`\bar z` the plain mean, :math:`z^*` the mean in the second metrics and
    :math:`\hat z` that in the first, curvature helps where

    .. math:: \|\hat z - z^*\|^2_{\bar A} <
              V(\bar z) - V(z^*) = c^\top \bar A^{-1} c, \qquad
              c = \sum_k w_k (A_k - \bar A)(z_k - \bar z)

    The gain is zero where all metrics or all points are equal. It grows with the
    covariance, over tasks, of curvature and displacement.

    Args:
        first: metrics of the tasks, from one half of their inputs.
        second: from the other half, in the same subspace.
        weights: of the tasks.
        damping: ridge of the mean in the first metrics, as in the merge.

    Returns:
        Gain and error. The second metrics get no more ridge than rounding needs.

    Example:
        >>> from pyro_geo.summaries.merge import build_subspace, measure
        >>> base = {"w": torch.zeros(2, 2)}
        >>> models = [{"w": torch.eye(2)}, {"w": -torch.eye(2)}]
        >>> subspace = build_subspace(base, models, "full")
        >>> x = [torch.randn(400, 2), 3 * torch.randn(400, 2)]
        >>> halves = [
        ...     [
        ...         measure(
        ...             lambda p, x: x @ p["w"],
        ...             state,
        ...             x[place],
        ...             subspace,
        ...             likelihood="gaussian",
        ...         )
        ...         for state, x in zip(models, x)
        ...     ]
        ...     for place in (slice(0, 200), slice(200, 400))
        ... ]
        >>> curvature_gain(*halves).helps
        True
    """
    check_number("damping", damping)
    names = task_names(first)
    one, two = of_each(first, names, "first"), of_each(second, names, "second")
    for metric, other in zip(one.values(), two.values(), strict=True):
        same = metric.dim == other.dim and torch.allclose(
            metric.signature, other.signature
        )
        check(same, "second", "metrics of another subspace", "the subspace of `first`")
    points = torch.stack([metric.coords for metric in two.values()])
    share = read_weights(weights, names).to(points)
    flat = share @ points
    guess = _solve.mean_of(_matrices(one), points, share, damping, flat)
    metrics = _matrices(two)
    best = _solve.mean_of(metrics, points, share, _ROUNDING, flat)
    total = torch.tensordot(share, metrics, 1)
    error = _solve.quadratic(total, guess.coords - best.coords)
    return CurvatureGain(best.gap, error, error < best.gap)


_ROUNDING = 1e-12  # relative to the mean curvature


def _matrices(metrics: Mapping[str, TaskMetric]) -> Tensor:
    rows = [
        m.matrix if m.matrix.dim() == 2 else m.matrix.diag() for m in metrics.values()
    ]
    return torch.stack(rows)
