r"""Means in several metrics, in the coordinates of a subspace.

.. math:: \bar A z^* = \sum_k w_k A_k z_k, \qquad \bar A = \sum_k w_k A_k
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.fits.precisions import factored

__all__ = ["Mean", "apply", "jittered_root", "mean_of", "quadratic", "trace"]

_ATTEMPTS = 4


class Mean(NamedTuple):
    """A mean of points, each in its own metric.

    Attributes:
        coords: the mean, `(dim,)`.
        flat: the mean without metrics, `(dim,)`.
        variance: weighted squared distances of the points from the mean.
        gap: how much larger they are at the flat mean.
    """

    coords: Tensor
    flat: Tensor
    variance: float
    gap: float


def apply(metric: Tensor, z: Tensor) -> Tensor:
    """Multiply a metric, `(dim, dim)` or a diagonal `(dim,)`, with coordinates."""
    return metric * z if metric.dim() == 1 else metric @ z


def quadratic(metric: Tensor, z: Tensor) -> float:
    """Squared length of coordinates in a metric."""
    return float(z @ apply(metric, z))


def trace(metric: Tensor) -> float:
    """Sum of the diagonal."""
    return float(metric.sum() if metric.dim() == 1 else metric.diagonal().sum())


def mean_of(
    metrics: Tensor, points: Tensor, weights: Tensor, damping: float, towards: Tensor
) -> Mean:
    r"""Solve for the mean of points in their metrics, with a ridge.

    .. math:: (\bar A + s I) z = \sum_k w_k A_k z_k + s z_0, \qquad
              s = \text{damping} \cdot \operatorname{mean} \operatorname{diag} \bar A

    Args:
        metrics: :math:`A_k`, `(tasks, dim, dim)` or diagonals `(tasks, dim)`.
        points: :math:`z_k`, `(tasks, dim)`.
        weights: positive, with sum 1, `(tasks,)`.
        damping: relative size of the ridge.
        towards: :math:`z_0`, where directions without curvature go, `(dim,)`.

    Returns:
        The mean. A sum of metrics that is singular in spite of the ridge is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
    """
    flat = weights @ points
    total = torch.tensordot(weights, metrics, 1)
    # around the flat mean: for equal metrics nothing is left to solve for
    pull = sum(
        w * apply(a, z - flat) for w, a, z in zip(weights, metrics, points, strict=True)
    )
    assert isinstance(pull, Tensor)
    ridge = damping * trace(total) / len(flat)
    step = _ridge_solve(total, pull, ridge, towards - flat)
    gap = 2 * float(step @ pull) - quadratic(total, step)
    spread = sum(
        float(w) * quadratic(a, z - flat - step)
        for w, a, z in zip(weights, metrics, points, strict=True)
    )
    return Mean(flat + step, flat, spread, gap)


def jittered_root(matrix: Tensor, what: str) -> Tensor:
    """Cholesky root of a matrix that already has its ridge.

    Args:
        matrix: `(dim, dim)`.
        what: it is, for the message.

    Returns:
        The root, lower triangular. A matrix that has none is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
    """
    todo = (
        "Increase `damping` or `prior_precision`, or leave out directions that no task "
        "cares about."
    )
    return factored(matrix, f"the {what}", todo=todo).root


def _ridge_solve(total: Tensor, pull: Tensor, ridge: float, offset: Tensor) -> Tensor:
    """Solve with a ridge, larger where the root does not exist."""
    for attempt in range(_ATTEMPTS + 1):
        size = ridge * 10**attempt
        right = pull + size * offset
        if total.dim() == 1:
            if bool((total + size > 0).all()):
                return right / (total + size)
            continue
        matrix = total.clone()
        matrix.diagonal().add_(size)
        root, info = torch.linalg.cholesky_ex(matrix)
        if not int(info):
            return torch.cholesky_solve(right[:, None], root)[:, 0]
    if total.dim() == 1:
        total = total.diag()
    jittered_root(total, "sum of the metrics")
    return torch.linalg.solve(total, pull)
