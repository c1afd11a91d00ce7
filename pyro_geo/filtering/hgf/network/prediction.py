r"""The numbers of a network, and how a step predicts its states.

Parents come before their children. Every prediction is a function of the beliefs after
the step before alone, so that all steps can be predicted at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.scan import exponent

__all__ = [
    "NetworkInputs",
    "NetworkParameters",
    "NetworkPredictions",
    "binary_chance",
    "network_predictions",
    "predict",
]

_LEAST_CHANCE = 1e-6  # chances of a binary input stay this far from 0 and 1


class NetworkParameters(NamedTuple):
    r"""Numbers of a network, with states, edges or inputs as the last axis.

    .. math::
        x_a \sim \mathrm N\Bigl(\lambda_a x_a' + t \bigl(\rho_a + \sum_b \psi_{ab}
        g_{ab}(x_b)\bigr),\; t \exp\bigl(\omega_a + \sum_c \kappa_{ac} x_c\bigr)\Bigr)

    Attributes:
        omega: :math:`\omega`, `(*batch, states)`.
        drift: :math:`\rho`, `(*batch, states)`.
        autoconnection: :math:`\lambda`, `(*batch, states)`.
        mu0: mean before the first step, `(*batch, states)`.
        pi0: precision before the first step, `(*batch, states)`.
        value_coupling: :math:`\psi`, `(*batch, value edges)`.
        kappa: :math:`\kappa`, `(*batch, volatility edges)`.
        input_precision: of continuous inputs, unused by binary ones,
            `(*batch, inputs)`.
    """

    omega: Tensor
    drift: Tensor
    autoconnection: Tensor
    mu0: Tensor
    pi0: Tensor
    value_coupling: Tensor
    kappa: Tensor
    input_precision: Tensor


class NetworkInputs(NamedTuple):
    """What is observed of a network.

    Attributes:
        u: inputs, 0 where none is observed, `(*batch, T, inputs)`.
        observed: whether there is one, bool `(*batch, T, inputs)`.
        time_step: time since the step before, `(*batch, T)`.
    """

    u: Tensor
    observed: Tensor
    time_step: Tensor


class NetworkPredictions(NamedTuple):
    """What is predicted of all states, lists over states of `(*batch,)` or more axes.

    Attributes:
        time_step: of the step that is predicted.
        mean: predicted means.
        variance: predicted variances.
        log_volatility: logarithms of what the step adds to the variances.
    """

    time_step: Tensor
    mean: list[Tensor]
    variance: list[Tensor]
    log_volatility: list[Tensor]


def binary_chance(log_odds: Tensor) -> Tensor:
    """Give the chance of a binary input, at least one in a million away from 0 and 1.

    Args:
        log_odds: of the input.

    Returns:
        The chance.

    Example:
        >>> binary_chance(torch.tensor([0.0, 100.0]))
        tensor([0.5000, 1.0000])
    """
    return torch.sigmoid(log_odds).clamp(_LEAST_CHANCE, 1 - _LEAST_CHANCE)


def network_predictions(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    mu: Tensor,
    pi: Tensor,
) -> NetworkPredictions:
    r"""Predict every step from the beliefs after the one before.

    .. math::
        \hat\mu_a = \lambda_a \mu_a + t \Bigl(\rho_a + \sum_b \psi_{ab}
        g_{ab}(\hat\mu_b)\Bigr), \quad
        \hat\pi_a^{-1} = \pi_a^{-1} + t \exp\Bigl(\omega_a + \sum_c \kappa_{ac}
        \hat\mu_c\Bigr)

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: of which the time steps are used.
        mu: means after each step, `(*batch, T, states)`.
        pi: precisions after each step.

    Returns:
        Predictions, each `(*batch, T)`.
    """
    numbers = {
        name: value.unsqueeze(-2).unbind(-1)
        for name, value in parameters._asdict().items()
    }
    before = []
    pairs = (parameters.mu0, mu), (1 / parameters.pi0, 1 / pi)
    for first, value in pairs:
        first = first.unsqueeze(-2).expand(*mu.shape[:-2], 1, mu.shape[-1])
        before.append(torch.cat([first, value[..., :-1, :]], -2).unbind(-1))
    return predict(graph, numbers, before[0], before[1], inputs.time_step)


def predict(
    graph: Graph,
    numbers: Mapping[str, Sequence[Tensor]],
    mean: Sequence[Tensor],
    variance: Sequence[Tensor],
    t: Tensor,
) -> NetworkPredictions:
    """Predict one step of all states.

    Args:
        graph: of the network.
        numbers: parameters by name, one tensor for each state, edge or input.
        mean: means before the step, by state.
        variance: variances before the step.
        t: time of the step.

    Returns:
        Predictions in the common shape of the arguments.
    """
    log_t = torch.log(t)
    muhat, after, volatility = list(mean), list(variance), list(mean)
    for a in graph.downward:
        drift = numbers["drift"][a]
        for edge, b in graph.parents(a, "value"):
            g = graph.value_edges[edge].function
            value = muhat[b] if g is None else g(muhat[b])
            drift = drift + numbers["value_coupling"][edge] * value
        muhat[a] = numbers["autoconnection"][a] * mean[a] + t * drift
        y = numbers["omega"][a] + log_t
        for edge, c in graph.parents(a, "volatility"):
            y = y + numbers["kappa"][edge] * muhat[c]
        volatility[a] = y.expand_as(mean[a])
        after[a] = variance[a] + exponent(y)
    return NetworkPredictions(t, muhat, after, volatility)
