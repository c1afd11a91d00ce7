"""The network of one task with its unlabelled inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import NonFiniteParameterError
from pyro_geo.geometry.likelihoods import Likelihood
from pyro_geo.geometry.projection import (
    Forward,
    input_batches,
    project_ggn,
    push_forward,
)
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge._tasks import StateDict, Tasks, of_each

__all__ = ["Network", "cast", "read_networks"]


class Network(NamedTuple):
    """What evaluates parameters on the inputs of one task.

    Attributes:
        task: its name.
        forward: function of parameters and inputs to outputs, `(n, outputs)`.
        inputs: `(n, ...)`.
        merged: the task's tensors that are merged.
        own: its other tensors: heads and buffers.
        likelihood: of the outputs.
        chunk_size: directions at once.
        batch_size: inputs at once.
    """

    task: str
    forward: Forward
    inputs: Tensor
    merged: dict[str, Tensor]
    own: dict[str, Tensor]
    likelihood: Likelihood
    chunk_size: int | None
    batch_size: int | None

    def outputs(self, params: StateDict) -> Tensor:
        """Evaluate parameters.

        Args:
            params: tensors that are merged, and others that replace the task's own.

        Returns:
            Outputs, `(n, outputs)`.
        """
        full = {**self.own, **params}
        with torch.no_grad():
            parts = [self.forward(dict(full), x) for x in self.batches()]
        result = torch.cat(parts)
        self._check(result)
        return result

    def reference(self) -> Tensor:
        """Outputs of the task's own model, `(n, outputs)`."""
        return self.outputs(self.merged)

    def metric(
        self,
        params: StateDict,
        subspace: Subspace | None,
        directions: Sequence[StateDict] = (),
    ) -> Tensor:
        """Gauss-Newton matrix of the mean loss on a subspace, see `project_ggn`."""
        matrix = project_ggn(
            self.forward,
            {**self.own, **params},
            self.inputs,
            subspace,
            likelihood=self.likelihood,
            directions=directions,
            chunk_size=self.chunk_size,
            batch_size=self.batch_size,
        )
        self._check(matrix)
        return matrix

    def gradient_and_metric(
        self, params: StateDict, reference: Tensor, subspace: Subspace
    ) -> tuple[Tensor, Tensor]:
        """Gradient and Gauss-Newton matrix of the mean divergence from a reference.

        Args:
            params: where.
            reference: outputs diverged from, `(n, outputs)`.
            subspace: of dimension `dim`.

        Returns:
            The gradient, `(dim,)`, and the matrix, `(dim, dim)`.
        """
        gradient, metric, start = 0.0, 0.0, 0
        full = {**self.own, **params}
        for x in self.batches():
            outputs, rows = push_forward(
                self.forward, full, x, subspace, chunk_size=self.chunk_size
            )
            there = reference[start : start + len(x)]
            slope = self.likelihood.slope(there, outputs)
            gradient = gradient + rows.flatten(1) @ slope.flatten()
            root = self.likelihood.root(outputs, rows).flatten(1)
            metric = metric + root @ root.T
            start += len(x)
        gradient, metric = torch.as_tensor(gradient), torch.as_tensor(metric)
        return gradient / start, metric / start

    def divergence(self, params: StateDict, reference: Tensor) -> float:
        """Mean KL divergence of what parameters predict from a reference, in nats."""
        outputs = self.outputs(params)
        return float(self.likelihood.divergence(reference, outputs).mean())

    def batches(self) -> Sequence[Tensor]:
        """The inputs, some at a time."""
        return list(input_batches(self.inputs, self.batch_size))

    def _check(self, values: Tensor) -> None:
        bad = int((~values.isfinite()).sum())
        if bad:
            raise NonFiniteParameterError(
                "a network gives numbers that are not finite",
                where=f"task {self.task!r}",
                found=f"{bad} of {values.numel()} NaN or infinite",
                expected="finite outputs and derivatives",
                todo="Look at the inputs and at the size of the parameters.",
            )


def cast(value: Tensor, like: Tensor) -> Tensor:
    """Convert floating numbers; others, such as indices, keep their type."""
    value = value.detach().to(like.device)
    return value.to(like.dtype) if value.is_floating_point() else value


def read_networks(
    tasks: Tasks,
    forwards: Forward | Mapping[str, Forward] | Sequence[Forward],
    inputs: Mapping[str, Tensor] | Sequence[Tensor],
    likelihood: Likelihood,
    like: Tensor,
    *,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Network]:
    """Bring tasks together with what evaluates them.

    Args:
        tasks: with their tensors.
        forwards: one function for all tasks, or one for each.
        inputs: of each task, `(n, ...)`.
        likelihood: of the outputs.
        like: type and device to compute with.
        chunk_size: directions at once.
        batch_size: inputs at once.

    Returns:
        Task to network.
    """
    rows = of_each(inputs, tasks.names, "inputs")
    if isinstance(forwards, Callable):
        each = dict.fromkeys(tasks.names, forwards)
    else:
        each = of_each(forwards, tasks.names, "forwards")
    networks = {}
    for name in tasks.names:
        good = isinstance(rows[name], Tensor) and len(rows[name]) > 0
        check(good, f"inputs of task {name!r}", "none", "at least one input")
        networks[name] = Network(
            name,
            each[name],
            cast(rows[name], like),
            {key: cast(x, like) for key, x in tasks.models[name].items()},
            {key: cast(x, like) for key, x in tasks.own[name].items()},
            likelihood,
            chunk_size,
            batch_size,
        )
    return networks
