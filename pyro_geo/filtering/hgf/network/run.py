"""Filter a network, and judge whether every belief held."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_geo._compat.torch import is_concrete
from pyro_geo.checks import check_choice
from pyro_geo.errors import HGFNegativePrecisionError
from pyro_geo.filtering.hgf.network.chain import as_chain
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.operator import can_be_opaque, opaque_scan
from pyro_geo.filtering.hgf.network.prediction import NetworkInputs, NetworkParameters
from pyro_geo.filtering.hgf.network.scan import network_scan
from pyro_geo.filtering.hgf.network.trajectory import (
    NetworkTrajectory,
    network_trajectory,
)
from pyro_geo.filtering.hgf.parameters import Predictive, Update
from pyro_geo.filtering.hgf.ranges import largest
from pyro_geo.filtering.hgf.run import (
    OnInvalid,
    run_scan,
    run_surprise,
    run_total,
    settled,
)

__all__ = [
    "NetworkBackend",
    "run_network",
    "run_network_surprise",
    "run_network_total",
]

NetworkBackend = Literal["auto", "torch"]


def run_network(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    *,
    update: Update = "unbounded",
    predictive: Predictive = "input",
    on_invalid: OnInvalid = "raise",
    backend: NetworkBackend = "auto",
) -> NetworkTrajectory:
    """Filter the inputs of a network.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        update: rule for volatility parents.
        predictive: "input", or "state" without the noise of continuous inputs.
        on_invalid: what becomes of a series where "classic" or "ehgf_pyhgf" leaves no
            positive precision: an error, NaN from there on, or an infinite surprise
            with derivatives of zero.
        backend: "auto", or "torch" for operations of torch alone.

    Returns:
        Beliefs at every step.
    """
    check_choice("on_invalid", on_invalid, ("raise", "nan", "-inf"))
    parameters, inputs, lost = _without_nonsense(parameters, inputs)
    mu, pi = _beliefs(graph, parameters, inputs, update, predictive, backend)
    if on_invalid == "raise":
        _refuse_failed(graph, pi)
    found = network_trajectory(graph, parameters, inputs, mu, pi, predictive=predictive)
    if on_invalid == "-inf":
        surprise = settled(found.surprise, lost)
    else:
        surprise = torch.where(lost.unsqueeze(-1), torch.nan, found.surprise)
    return found._replace(surprise=surprise)


def run_network_surprise(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    *,
    update: Update = "unbounded",
    predictive: Predictive = "input",
    backend: NetworkBackend = "auto",
) -> Tensor:
    """Filter the inputs of a network for their surprise alone.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        update: rule for volatility parents.
        predictive: "input", or "state" without the noise of continuous inputs.
        backend: "auto", or "torch" for operations of torch alone.

    Returns:
        Surprise of each step, infinite with derivatives of zero where the filter
        failed, `(*batch, T)`.
    """
    parameters, inputs, lost = _without_nonsense(parameters, inputs)
    chain = as_chain(graph, parameters, inputs, update, predictive, backend)
    if chain is not None:
        return settled(run_surprise(chain.call), lost)
    value = _surprise(graph, parameters, inputs, update, predictive, backend)
    return settled(value, lost)


def run_network_total(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    *,
    update: Update = "unbounded",
    predictive: Predictive = "input",
    backend: NetworkBackend = "auto",
) -> Tensor:
    """Sum the surprise of a network over its steps, in one pass where it is a chain.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        update: rule for volatility parents.
        predictive: "input", or "state" without the noise of continuous inputs.
        backend: "auto", or "torch" for operations of torch alone.

    Returns:
        The sum, infinite with derivatives of zero where the filter failed, `(*batch,)`.
    """
    parameters, inputs, lost = _without_nonsense(parameters, inputs)
    chain = as_chain(graph, parameters, inputs, update, predictive, backend)
    if chain is not None:
        total = run_total(chain.call)
        return torch.where(total.isnan() | lost, torch.inf, total)
    value = _surprise(graph, parameters, inputs, update, predictive, backend)
    return settled(value, lost).sum(-1)


def _beliefs(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    update: Update,
    predictive: Predictive,
    backend: NetworkBackend,
) -> tuple[Tensor, Tensor]:
    chain = as_chain(graph, parameters, inputs, update, predictive, backend)
    if chain is None:
        return _scan(graph, parameters, inputs, update, backend)
    back = [chain.order.index(a) for a in range(len(graph.names))]
    mu, pi = run_scan(chain.call)
    return mu[..., back], pi[..., back]


def _surprise(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    update: Update,
    predictive: Predictive,
    backend: NetworkBackend,
) -> Tensor:
    """Find the surprise of a network that is no chain, NaN where it failed."""
    mu, pi = _scan(graph, parameters, inputs, update, backend)
    return network_trajectory(
        graph, parameters, inputs, mu, pi, predictive=predictive
    ).surprise


def _scan(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    update: Update,
    backend: NetworkBackend,
) -> tuple[Tensor, Tensor]:
    # in a trace even one that is not compiled inside is better in one piece
    wanted = update == "unbounded" or not is_concrete(*parameters, *inputs)
    if backend == "auto" and wanted and can_be_opaque(graph, parameters.mu0):
        return opaque_scan(graph, parameters, inputs, update=update)
    return network_scan(graph, parameters, inputs, update=update)


def _without_nonsense(
    parameters: NetworkParameters, inputs: NetworkInputs
) -> tuple[NetworkParameters, NetworkInputs, Tensor]:
    """Replace series whose numbers are out of range, and say which they are.

    A sampler proposes such numbers now and then. The surprise of the series becomes
    infinite; were they used, the derivatives of all others would be NaN.

    Returns:
        Parameters, inputs, and True for the series that are replaced.
    """
    limit = largest(parameters.mu0.dtype)
    bad = torch.zeros_like(parameters.mu0[..., 0], dtype=torch.bool)
    for name, value in parameters._asdict().items():
        good = value.abs() <= limit  # which NaN is not
        if name in ("pi0", "input_precision"):
            good = good & (value >= 1 / limit)
        bad = bad | ~good.all(-1)
    kept = NetworkParameters(
        *(torch.where(bad.unsqueeze(-1), 1.0, value) for value in parameters)
    )
    finite = inputs.u.abs() <= limit
    lost = (~finite).any(-1).any(-1)
    u = torch.where(finite, inputs.u, 0.0)
    return kept, inputs._replace(u=u), bad | lost


def _refuse_failed(graph: Graph, pi: Tensor) -> None:
    bad = pi.isnan()
    if not (is_validation_enabled() and is_concrete(pi) and bool(bad.any())):
        return
    *batch, step = bad.any(-1).nonzero()[0].tolist()
    here = bad[(*batch, step)]
    name = next(graph.names[a] for a in reversed(graph.downward) if here[a])
    raise HGFNegativePrecisionError(
        "a belief has no positive precision",
        where=f"state {name}, step {step}, batch {tuple(batch)}",
        found="NaN",
        expected="a positive precision of every state at every step",
        todo="Use update='unbounded', which cannot fail.",
    )
