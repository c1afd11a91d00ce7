r"""The merge that diverges least from all tasks, by Levenberg-Marquardt steps.

.. math:: F(z) = \sum_k w_k E_x\, KL\bigl(p_{\theta_k}(\cdot | x) \,\|\,
          p_{\theta_0 + B z}(\cdot | x)\bigr)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import NonFiniteParameterError
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge._networks import Network
from pyro_geo.summaries.merge._tasks import StateDict

__all__ = ["Divergence", "Objective", "refine"]

_TRIALS = 10
_STOP = 0.01  # relative fall of the objective
_START = 1e-2  # first damping, relative to the mean curvature


class Divergence(NamedTuple):
    """How far merged tensors are from the tasks' own models, on some inputs.

    Attributes:
        networks: task to network with its inputs.
        references: task to the outputs of its own model.
        weights: of the tasks.
        statistics: tensors that replace each task's own in a merged network.
    """

    networks: Mapping[str, Network]
    references: Mapping[str, Tensor]
    weights: Tensor
    statistics: Mapping[str, Tensor]

    def params(self, merged: StateDict) -> dict[str, Tensor]:
        """Parameters of the merged network."""
        return {**merged, **self.statistics}

    def mean(self, merged: StateDict) -> float:
        """Weighted mean over the tasks."""
        pairs = zip(self.weights.tolist(), self.by_task(merged).values(), strict=True)
        return sum(weight * value for weight, value in pairs)

    def by_task(self, merged: StateDict) -> dict[str, float]:
        """Divergence of each task."""
        params = self.params(merged)
        return {
            task: network.divergence(params, self.references[task])
            for task, network in self.networks.items()
        }


class Objective(NamedTuple):
    """The mean divergence of all tasks as a function of coordinates.

    Attributes:
        subspace: of the coordinates.
        divergence: of the tensors there.
    """

    subspace: Subspace
    divergence: Divergence

    def value(self, z: Tensor) -> float:
        """The objective at coordinates."""
        return self.divergence.mean(self.subspace.point(z))

    def by_task(self, z: Tensor) -> dict[str, float]:
        """Divergence of each task at coordinates."""
        return self.divergence.by_task(self.subspace.point(z))

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient, `(dim,)`, and Gauss-Newton matrix, `(dim, dim)`."""
        networks, references, weights, _ = self.divergence
        params = self.divergence.params(self.subspace.point(z))
        gradient = torch.zeros_like(z)
        metric = z.new_zeros(len(z), len(z))
        pairs = zip(weights.tolist(), networks.items(), strict=True)
        for weight, (task, network) in pairs:
            parts = network.gradient_and_metric(params, references[task], self.subspace)
            gradient += weight * parts[0]
            metric += weight * parts[1]
        return gradient, metric


def refine(
    objective: Objective, start: Tensor, steps: int
) -> Iterator[tuple[Tensor, float]]:
    """Lower the objective from a start.

    A step is taken only where the objective falls; the damping is divided by 3 then,
    and multiplied by 4 otherwise.

    Args:
        objective: to lower.
        start: coordinates, `(dim,)`.
        steps: at most.

    Yields:
        Coordinates with the objective there, at the start and after each step.
    """
    z, least = start, objective.value(start)
    yield z, least
    damping = _START
    for _ in range(steps):
        gradient, metric = objective.derivatives(z)
        found = None
        for _ in range(_TRIALS):
            step = _step(gradient, metric, damping)
            value = torch.inf if step is None else _value(objective, z + step)
            if step is not None and value < least:
                found = z + step, value
                damping /= 3
                break
            damping *= 4
        if found is None:
            return
        before = least
        z, least = found
        yield z, least
        if least > (1 - _STOP) * before:
            return


def _value(objective: Objective, z: Tensor) -> float:
    """The objective after a trial step, which may lead to overflow."""
    try:
        return objective.value(z)
    except NonFiniteParameterError:
        return torch.inf


def _step(gradient: Tensor, metric: Tensor, damping: float) -> Tensor | None:
    matrix = metric.clone()
    matrix.diagonal().add_(damping * metric.diagonal().mean())
    root, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return None
    return -torch.cholesky_solve(gradient[:, None], root)[:, 0]
