"""The inputs of a network as one random variable."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Size, Tensor

from pyro_geo._compat.torch import validates
from pyro_geo.filtering.hgf.network.data import network_inputs
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import NetworkInputs, NetworkParameters
from pyro_geo.filtering.hgf.network.run import (
    NetworkBackend,
    run_network,
    run_network_surprise,
    run_network_total,
)
from pyro_geo.filtering.hgf.network.simulate import simulate_inputs
from pyro_geo.filtering.hgf.network.trajectory import NetworkTrajectory
from pyro_geo.filtering.hgf.parameters import Predictive, Update

__all__ = ["NetworkDistribution"]


class NetworkDistribution(TorchDistribution):
    r"""Distribution of the inputs of a network, by the filter's predictions.

    .. math:: \log p(u) = \sum_k \log p(u_k \mid u_{1:k-1})

    It is made by :meth:`~pyro_geo.filtering.hgf.network.HGFNetwork.distribution`. A
    network with one input has events `(T,)`, one with several `(T, inputs)`.

    Args:
        graph: of the network.
        parameters: its numbers; their batch and that of the time steps is the batch of
            the distribution.
        time_step: time since the step before, `(*batch, T)`.
        observed: which inputs there are, `(*batch, T)` or `(*batch, T, inputs)` like
            the events; None for all.
        update: rule for volatility parents.
        predictive: "input", or "state" without the noise of continuous inputs.
        backend: "auto" or "torch".
        validate_args: whether values are checked; None for torch's default.
    """

    has_rsample = False
    step_dim = "trial"

    def __init__(
        self,
        graph: Graph,
        parameters: NetworkParameters,
        time_step: Tensor,
        *,
        observed: Tensor | None = None,
        update: Update = "unbounded",
        predictive: Predictive = "input",
        backend: NetworkBackend = "auto",
        validate_args: bool | None = None,
    ) -> None:
        self.graph = graph
        self.parameters = parameters
        self.time_step = time_step
        self.observed = observed
        self.update: Update = update
        self.predictive: Predictive = predictive
        self.backend: NetworkBackend = backend
        batch = torch.broadcast_shapes(parameters.mu0.shape[:-1], time_step.shape[:-1])
        event = Size([time_step.shape[-1], *[len(graph.inputs)] * self._several])
        if observed is not None:
            batch = torch.broadcast_shapes(batch, observed.shape[: -len(event)])
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """None, as the parameters are those of the network."""
        return {}

    @property
    def _several(self) -> bool:
        return len(self.graph.inputs) > 1

    @property
    def support(self) -> Any:
        """Numbers; zeros and ones where every input is binary."""
        binary = all(seen.kind == "binary" for seen in self.graph.inputs)
        base = constraints.boolean if binary else constraints.real
        return constraints.independent(base, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Evaluate the log-density of all steps together.

        Args:
            value: inputs, `(*batch, *event_shape)`.

        Returns:
            Log-density, `(*batch,)`.
        """
        total = run_network_total(
            self.graph,
            self.parameters,
            self._inputs(value),
            update=self.update,
            predictive=self.predictive,
            backend=self.backend,
        )
        return -total.expand(self._joint_batch(value))

    def log_prob_steps(self, value: Tensor) -> Tensor:
        """Evaluate the log-density of each step given those before.

        Args:
            value: inputs, `(*batch, *event_shape)`.

        Returns:
            Log-densities, 0 for steps without an input, `(*batch, T)`.
        """
        surprise = run_network_surprise(
            self.graph,
            self.parameters,
            self._inputs(value),
            update=self.update,
            predictive=self.predictive,
            backend=self.backend,
        )
        return -surprise.expand(*self._joint_batch(value), surprise.shape[-1])

    def trajectory(self, value: Tensor) -> NetworkTrajectory:
        """Filter inputs.

        Args:
            value: inputs, `(*batch, *event_shape)`.

        Returns:
            Beliefs at every step.
        """
        return run_network(
            self.graph,
            self.parameters,
            self._inputs(value),
            update=self.update,
            predictive=self.predictive,
            backend=self.backend,
            on_invalid="-inf",
        )

    def _inputs(self, value: Tensor) -> NetworkInputs:
        return network_inputs(
            self.graph,
            value.to(self.parameters.mu0.dtype),
            observed=self.observed,
            time_step=self.time_step,
        )

    def _joint_batch(self, value: Tensor) -> torch.Size:
        batch = value.shape[: value.dim() - len(self.event_shape)]
        return torch.broadcast_shapes(self.batch_shape, batch)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw hidden states and inputs by the generative model, and keep the inputs.

        Args:
            sample_shape: of independent series.

        Returns:
            Inputs, `(*sample_shape, *batch, *event_shape)`.
        """
        shape = Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            u = simulate_inputs(self.graph, self.parameters, self.time_step, shape)[0]
        return u if self._several else u.squeeze(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NetworkDistribution:
        """Give the distribution a larger batch.

        Args:
            batch_shape: the new one.

        Returns:
            A distribution that shares what it can.
        """
        new = type(self).__new__(type(self)) if _instance is None else _instance
        batch = Size(batch_shape)
        NetworkDistribution.__init__(
            new,
            self.graph,
            NetworkParameters(
                *(value.expand(*batch, value.shape[-1]) for value in self.parameters)
            ),
            self.time_step,
            observed=self.observed,
            update=self.update,
            predictive=self.predictive,
            backend=self.backend,
            validate_args=validates(self),
        )
        return new
