"""What a network believed at every step, and how surprised it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import fields_html, fields_line
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import (
    NetworkInputs,
    NetworkParameters,
    binary_chance,
    network_predictions,
)
from pyro_geo.filtering.hgf.parameters import Predictive

__all__ = ["NetworkState", "NetworkTrajectory", "input_surprises", "network_trajectory"]


class NetworkState(NamedTuple):
    """Beliefs between two steps, from which a filter goes on.

    Attributes:
        mu: means by state, each `(*batch,)`.
        pi: precisions by state.
    """

    mu: dict[str, Tensor]
    pi: dict[str, Tensor]


class NetworkTrajectory(NamedTuple):
    r"""Beliefs by state and predictions by input, a pytree of tensors `(*batch, T)`.

    Attributes:
        mu: means by state.
        pi: precisions by state.
        muhat: predicted means by state.
        pihat: predicted precisions by state.
        pred: prediction by input: the mean of a continuous one, the chance of a binary
            one.
        pe_value: value prediction errors :math:`\mu - \hat\mu` by state.
        pe_volatility: volatility prediction errors
            :math:`\hat\pi (1/\pi + (\mu - \hat\mu)^2) - 1` by state.
        surprises: surprise by input, in nats, 0 where there is none. Several continuous
            inputs of one state count one after the other.
        surprise: their sum.
        final_state: beliefs after the last step.
    """

    mu: dict[str, Tensor]
    pi: dict[str, Tensor]
    muhat: dict[str, Tensor]
    pihat: dict[str, Tensor]
    pred: dict[str, Tensor]
    pe_value: dict[str, Tensor]
    pe_volatility: dict[str, Tensor]
    surprises: dict[str, Tensor]
    surprise: Tensor
    final_state: NetworkState

    def __repr__(self) -> str:
        """Name the fields with their shapes."""
        return fields_line(self)

    def _repr_html_(self) -> str:
        """Show the shapes in a notebook."""
        return fields_html(self)


def input_surprises(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    muhat: Sequence[Tensor],
    variance: Sequence[Tensor],
    *,
    predictive: Predictive = "input",
) -> list[Tensor]:
    r"""Evaluate how unlikely each input was, given all that came before.

    .. math::
        -\log \mathrm N\bigl(u;\ \hat\mu,\ 1/\hat\pi + 1/\pi_u\bigr)
        \quad\text{or}\quad -\log p(u)

    The second continuous input of a state is predicted from the first too, so that the
    sum is the surprise of both together, whichever comes first.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        muhat: predicted means by state, `(*batch, T)`.
        variance: predicted variances.
        predictive: "state" leaves the noise of continuous inputs out.

    Returns:
        Surprises in the order of the inputs, each `(*batch, T)`.
    """
    found: dict[int, Tensor] = {}
    for a in range(len(graph.names)):
        mean, spread = muhat[a], variance[a]
        chance = binary_chance(mean)
        for k in graph.inputs_of(a):
            u, seen = inputs.u[..., k], inputs.observed[..., k]
            if graph.inputs[k].kind == "binary":
                surprise = -torch.log(torch.where(u > 0.5, chance, 1 - chance))
            else:
                noise = parameters.input_precision[..., k].unsqueeze(-1)
                total = spread + 1 / noise if predictive == "input" else spread
                error = u - mean
                distance = error / total.sqrt()  # its square may overflow
                surprise = 0.5 * (
                    math.log(2 * math.pi) + torch.log(total) + distance * distance
                )
                if predictive == "input":
                    gain = seen * spread / total
                    mean, spread = mean + gain * error, spread - gain * spread
            zero = torch.zeros_like(surprise)
            found[k] = torch.where(seen, surprise, zero)
    return [found[k] for k in range(len(graph.inputs))]


def network_trajectory(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    mu: Tensor,
    pi: Tensor,
    *,
    predictive: Predictive = "input",
) -> NetworkTrajectory:
    """Name the beliefs of a network, and compare its predictions with its inputs.

    What is predicted from a belief that is NaN is NaN too, with derivatives of zero.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        mu: means after each step, `(*batch, T, states)`.
        pi: precisions after each step.
        predictive: see :func:`input_surprises`.

    Returns:
        The trajectory.
    """
    failed = mu.isnan()
    lost = failed.any(-1)
    before = torch.cat([torch.zeros_like(lost[..., :1]), lost[..., :-1]], -1)
    mu, pi = torch.where(failed, 0.0, mu), torch.where(failed, 1.0, pi)
    predicted = network_predictions(graph, parameters, inputs, mu, pi)
    predictions = predicted.mean, predicted.variance
    surprises = input_surprises(
        graph, parameters, inputs, *predictions, predictive=predictive
    )
    errors = [m - hat for m, hat in zip(mu.unbind(-1), predicted.mean, strict=True)]
    spreads = [
        (1 / p + error.square()) / hat - 1
        for hat, p, error in zip(predicted.variance, pi.unbind(-1), errors, strict=True)
    ]
    pred = {
        seen.name: binary_chance(predicted.mean[graph.names.index(seen.state)])
        if seen.kind == "binary"
        else predicted.mean[graph.names.index(seen.state)]
        for seen in graph.inputs
    }
    at = failed.unbind(-1)
    means = _by_name(graph, mu.unbind(-1), at)
    precisions = _by_name(graph, pi.unbind(-1), at)
    by_input = {
        seen.name: _blank(value, lost)
        for seen, value in zip(graph.inputs, surprises, strict=True)
    }
    return NetworkTrajectory(
        mu=means,
        pi=precisions,
        muhat=_by_name(graph, predicted.mean, [before] * len(at)),
        pihat=_by_name(
            graph, [1 / hat for hat in predicted.variance], [before] * len(at)
        ),
        pred={name: _blank(value, before) for name, value in pred.items()},
        pe_value=_by_name(graph, errors, at),
        pe_volatility=_by_name(graph, spreads, at),
        surprises=by_input,
        surprise=torch.stack(torch.broadcast_tensors(*by_input.values())).sum(0),
        final_state=NetworkState(
            {name: value[..., -1] for name, value in means.items()},
            {name: value[..., -1] for name, value in precisions.items()},
        ),
    )


def _blank(value: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, torch.nan, value)


def _by_name(
    graph: Graph, values: Sequence[Tensor], failed: Sequence[Tensor]
) -> dict[str, Tensor]:
    rows = zip(graph.names, values, failed, strict=True)
    return {name: _blank(value, bad) for name, value, bad in rows}
