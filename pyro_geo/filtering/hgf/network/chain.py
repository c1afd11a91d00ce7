"""A network that is one chain of levels, which has a faster filter of its own."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import NetworkInputs, NetworkParameters
from pyro_geo.filtering.hgf.parameters import (
    HGFInputs,
    HGFParameters,
    Predictive,
    Update,
)
from pyro_geo.filtering.hgf.run import Backend, Call, compiles

__all__ = ["Chain", "as_chain"]


class Chain(NamedTuple):
    """A network as a chain of levels.

    Attributes:
        call: of the filter of chains.
        order: index of the state of each level, lowest first.
    """

    call: Call
    order: tuple[int, ...]


def as_chain(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    update: Update,
    predictive: Predictive,
    backend: Backend,
) -> Chain | None:
    """Find the chain that a network is.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        update: rule for volatility parents.
        predictive: "input" or "state".
        backend: of the filter of chains.

    Returns:
        The chain, or None: each state needs one volatility parent at most, which may be
        its value parent too, and the lowest alone is observed, once.
    """
    order = _order(graph)
    if order is None:
        return None
    below = order[:-1]
    kappa = [graph.parents(a, "volatility")[0][0] for a in below]
    psi = [[edge for edge, _ in graph.parents(a, "value")] for a in below]
    coupled = any(psi)
    value = parameters.kappa[..., kappa] * 0
    if coupled:
        if not all(psi):
            return None
        value = parameters.value_coupling[..., [edges[0] for edges in psi]]
    levels = list(order)
    own = HGFParameters(
        omega=parameters.omega[..., levels],
        kappa=parameters.kappa[..., kappa],
        mu0=parameters.mu0[..., levels],
        pi0=parameters.pi0[..., levels],
        drift=parameters.drift[..., levels],
        autoconnection=parameters.autoconnection[..., levels],
        value_coupling=value,
        input_precision=parameters.input_precision[..., 0],
    )
    series = HGFInputs(inputs.u[..., 0], inputs.observed[..., 0], _steps(inputs))
    kind = graph.inputs[0].kind
    call = Call(
        own,
        series,
        kind,
        update,
        predictive,
        normalise=True,
        compiled=compiles(own, series, kind, update, backend),
        value_coupled=coupled,
        on_invalid="nan",
        unsound=None,
    )
    return Chain(call, order)


def _steps(inputs: NetworkInputs) -> Tensor:
    return inputs.time_step.expand(inputs.u.shape[:-1])


def _order(graph: Graph) -> tuple[int, ...] | None:
    """List the states from the observed one upwards, if they are a chain."""
    if len(graph.inputs) != 1:
        return None
    order = [graph.names.index(graph.inputs[0].state)]
    while parents := graph.parents(order[-1], "volatility"):
        state, above = order[-1], parents[0][1]
        if len(parents) > 1 or len(graph.children(above, "volatility")) > 1:
            return None
        if any(b != above for _, b in graph.parents(state, "value")):
            return None
        order.append(above)
    if graph.parents(order[-1], "value") or len(order) < len(graph.names):
        return None
    if any(edge.function is not None for edge in graph.value_edges):
        return None
    return tuple(order)
