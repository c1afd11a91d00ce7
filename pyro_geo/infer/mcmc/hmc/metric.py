"""Kinds of metric: which positive-definite matrix is the covariance of velocities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank

__all__ = ["Metric", "MetricKind", "diagonal_as", "kind_of"]

MetricKind = Literal["diagonal", "dense", "low_rank"]
Metric = Diagonal | LowRank | Dense


def kind_of(metric: Metric) -> MetricKind:
    """Name the kind of a metric."""
    if isinstance(metric, Diagonal):
        return "diagonal"
    return "dense" if isinstance(metric, Dense) else "low_rank"


def diagonal_as(kind: MetricKind, scale: Tensor, rank: int) -> Metric:
    """Write a diagonal covariance as a metric of some kind.

    Args:
        kind: the kind.
        scale: standard deviations, `(dim,)`.
        rank: of a low-rank metric.

    Returns:
        The metric.
    """
    if kind == "diagonal":
        return Diagonal(scale)
    if kind == "dense":
        return Dense(scale.square().diag(), scale.diag(), scale.reciprocal().diag())
    # any orthonormal columns do, as all eigenvalues are one
    vectors = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)[:, :rank]
    return LowRank(scale, vectors.contiguous(), torch.ones_like(scale[:rank]))
