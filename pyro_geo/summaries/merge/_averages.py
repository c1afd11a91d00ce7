"""Where curvature is averaged: at a point, around it, or along a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.special import roots_jacobi, roots_legendre
from torch import Tensor

from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge._networks import Network
from pyro_geo.summaries.merge._solve import jittered_root
from pyro_geo.summaries.merge._tasks import StateDict

__all__ = ["between", "path_metric", "path_rule", "posterior_metric", "straight_rule"]

Where = Callable[[StateDict], Tensor]


def path_rule(nodes: int) -> list[tuple[float, float]]:
    r"""Gauss-Jacobi nodes and weights of :math:`\int_0^1 2 (1 - t) g(t) dt`.

    Args:
        nodes: how many; two are :math:`t = (4 \mp \sqrt 6) / 10`.

    Returns:
        Nodes with their weights.
    """
    x, w = roots_jacobi(nodes, 1.0, 0.0)  # weight (1 - x) on [-1, 1]
    return list(zip(((1 + x) / 2).tolist(), (w / 2).tolist(), strict=True))


def straight_rule(nodes: int) -> list[tuple[float, float]]:
    r"""Gauss-Legendre nodes and weights of :math:`\int_0^1 g(t) dt`."""
    x, w = roots_legendre(nodes)
    return list(zip(np.add(x, 1) / 2, np.divide(w, 2), strict=True))


def between(start: StateDict, end: StateDict, t: float) -> dict[str, Tensor]:
    """Parameters on the straight line from a start to an end."""
    return {name: torch.lerp(x, end[name].to(x), t) for name, x in start.items()}


def path_metric(
    network: Network,
    end: StateDict,
    subspace: Subspace | None,
    directions: Sequence[StateDict],
    nodes: int,
) -> Tensor:
    r"""Average the metric from the task's own parameters to an end.

    .. math:: \int_0^1 2 (1 - t)\, G(\theta_k + t \delta)\, dt

    is the matrix whose quadratic form is exact where `G` is the Hessian of a loss.

    Args:
        network: of the task.
        end: of the path.
        subspace: to project on.
        directions: further columns.
        nodes: of the path.

    Returns:
        The matrix.
    """
    total: Tensor | None = None
    for t, weight in path_rule(nodes):
        here = between(network.merged, end, t)
        part = weight * network.metric(here, subspace, directions)
        total = part if total is None else total + part
    assert total is not None
    return total


def posterior_metric(
    network: Network,
    subspace: Subspace,
    directions: Sequence[StateDict],
    *,
    count: float,
    prior_precision: float,
    num_draws: int,
    seed: int,
) -> Tensor:
    r"""Average the metric over draws of the task's own posterior, in pairs.

    Draws are :math:`z_k \pm L^{-\top} \varepsilon` with
    :math:`L L^\top = n_k A_k + \delta I` and the metric :math:`A_k` at the point.

    Args:
        network: of the task.
        subspace: to project on.
        directions: further columns.
        count: :math:`n_k`.
        prior_precision: :math:`\delta`.
        num_draws: in all.
        seed: of the draws.

    Returns:
        The matrix.
    """
    point = network.metric(network.merged, subspace)
    eye = torch.eye(len(point)).to(point)
    root = jittered_root(count * point + prior_precision * eye, "posterior of a task")
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    for _ in range(num_draws // 2):
        noise = torch.randn(len(point), 1, generator=generator, dtype=torch.float64)
        step = torch.linalg.solve_triangular(root.T, noise.to(point), upper=True)
        change = subspace.lift(step[:, 0])
        for sign in (1, -1):
            here = {name: x + sign * change[name] for name, x in network.merged.items()}
            part = network.metric(here, subspace, directions)
            total = part if total is None else total + part
    assert total is not None
    return total / (2 * (num_draws // 2))
