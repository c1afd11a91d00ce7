"""Posteriors whose combination is known, and combinations that are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.geometry.matrices import Cholesky
from pyro_geo.geometry.projection import Forward
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries import GaussianPosterior, combine
from pyro_geo.summaries.merge import TaskMetric, measure

__all__ = [
    "Shards",
    "conjugate_shards",
    "measured_elsewhere",
    "prior_counted_each_time",
    "summed_beside_mean",
]


class Shards(NamedTuple):
    """Exact posteriors of parts of one data set.

    Attributes:
        prior: that all of them contain.
        posteriors: of each part.
        pooled: of all data.
    """

    prior: GaussianPosterior
    posteriors: list[GaussianPosterior]
    pooled: GaussianPosterior


def conjugate_shards(sizes: Sequence[int], seed: int = 0) -> Shards:
    r"""Make a linear regression with a normal prior, split into parts.

    Precisions are :math:`\Lambda_0 + X_k^\top X_k`, so that the product of the
    posteriors with the prior divided out is the pooled one exactly. The three
    coefficients are two sites.

    Args:
        sizes: rows of each part; 0 leaves the prior.
        seed: of prior and data.

    Returns:
        The posteriors.

    Example:
        >>> shards = conjugate_shards([3, 4])
        >>> len(shards.posteriors), shards.pooled.dim
        (2, 3)
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    supports = {
        "slope": (torch.Size([2]), constraints.real),
        "offset": (torch.Size([]), constraints.real),
    }
    layout = Layout.from_supports(supports)
    root, mean = normal(3, 3), normal(3)
    start = root @ root.T + torch.eye(3, dtype=torch.float64)
    x, y = normal(sum(sizes), 3), normal(sum(sizes))

    def posterior(x: Tensor, y: Tensor) -> GaussianPosterior:
        precision = start + x.T @ x
        loc = torch.linalg.solve(precision, start @ mean + x.T @ y)
        return GaussianPosterior(
            loc, Cholesky(torch.linalg.cholesky(precision)), layout
        )

    parts = zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)
    return Shards(
        posterior(x[:0], y[:0]), [posterior(*part) for part in parts], posterior(x, y)
    )


def prior_counted_each_time(
    posteriors: Sequence[GaussianPosterior], prior: GaussianPosterior
) -> GaussianPosterior:
    """Multiply posteriors without dividing by the prior that all of them contain.

    Args:
        posteriors: of parts of the data.
        prior: left as it is.

    Returns:
        A posterior that is too narrow and too close to the prior.
    """
    prior.aligned(posteriors[0].layout)
    return combine(posteriors, how="product")


def summed_beside_mean(metrics: Mapping[str, TaskMetric]) -> dict[str, TaskMetric]:
    """Take the curvature of a summed loss for one task and of mean losses elsewhere.

    Args:
        metrics: of mean losses.

    Returns:
        Metrics that outweigh all others by the number of one task's data.
    """
    first, *others = metrics
    wrong = metrics[first]
    changed = replace(wrong, matrix=wrong.count * wrong.matrix)
    return {first: changed, **{name: metrics[name] for name in others}}


def measured_elsewhere(
    forward: Forward,
    base: Mapping[str, Tensor],
    params: Mapping[str, Tensor],
    inputs: Tensor,
    subspace: Subspace,
) -> TaskMetric:
    """Take the curvature at the base for that along the way from the task's model.

    Args:
        forward: function of parameters and inputs to outputs.
        base: where it is measured.
        params: of the task.
        inputs: of the task.
        subspace: to measure in.

    Returns:
        A metric that claims to be of a path.
    """
    right = measure(forward, params, inputs, subspace)
    wrong = measure(forward, base, inputs, subspace, kind="point")
    return replace(right, matrix=wrong.matrix)
