"""Euclidean metrics: a covariance, its square root, and what the two do to a batch."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Dense",
    "Diagonal",
    "LowRank",
    "Metric",
    "MetricKind",
    "accelerate",
    "colour",
    "diagonal_as",
    "kind_of",
    "whiten",
]

MetricKind = Literal["diagonal", "dense", "low_rank"]


class Diagonal(NamedTuple):
    """Covariance `diag(scale ** 2)`.

    Attributes:
        scale: standard deviations, `(dim,)`.
    """

    scale: Tensor


class LowRank(NamedTuple):
    """Covariance `S (I + U (diag(values) - I) U') S` with `S = diag(scale)`.

    Attributes:
        scale: `(dim,)`.
        vectors: orthonormal columns `U`, `(dim, rank)`.
        values: eigenvalues along them, `(rank,)`.
    """

    scale: Tensor
    vectors: Tensor
    values: Tensor


class Dense(NamedTuple):
    """Covariance `F F'`.

    Attributes:
        covariance: `(dim, dim)`.
        factor: `F`, lower triangular.
        inverse: of the factor.
    """

    covariance: Tensor
    factor: Tensor
    inverse: Tensor


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
    vectors = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)[:, :rank]
    return LowRank(scale, vectors.contiguous(), torch.ones_like(scale[:rank]))


def colour(metric: Metric, noise: Tensor) -> Tensor:
    """Turn standard normal rows into rows of the metric's covariance.

    Args:
        metric: the metric.
        noise: `(chains, dim)`.

    Returns:
        Velocities, `(chains, dim)`.
    """
    if isinstance(metric, Diagonal):
        return metric.scale * noise
    if isinstance(metric, Dense):
        return noise @ metric.factor.mT
    return metric.scale * _stretch(metric.vectors, metric.values.sqrt(), noise)


def accelerate(metric: Metric, grad: Tensor) -> Tensor:
    """Multiply each row with the covariance, `(chains, dim)`."""
    if isinstance(metric, Diagonal):
        return metric.scale.square() * grad
    if isinstance(metric, Dense):
        return grad @ metric.covariance
    scaled = metric.scale * grad
    return metric.scale * _stretch(metric.vectors, metric.values, scaled)


def whiten(metric: Metric, velocity: Tensor) -> Tensor:
    """Undo :func:`colour`, `(chains, dim)`."""
    if isinstance(metric, Diagonal):
        return velocity / metric.scale
    if isinstance(metric, Dense):
        return velocity @ metric.inverse.mT
    scaled = velocity / metric.scale
    return _stretch(metric.vectors, metric.values.rsqrt(), scaled)


def _stretch(vectors: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Apply `I + U (diag(values) - I) U'` to each row."""
    along = rows @ vectors
    return rows + ((values - 1) * along) @ vectors.mT
