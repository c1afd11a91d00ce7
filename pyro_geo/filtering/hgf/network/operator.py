"""The filter of a network as one opaque operation of traces and transforms.

A trace of the filter has hundreds of nodes for each step; one operation in its place is
traced at once, and runs on all lanes of a mapped axis without being mapped itself. The
unbounded update runs in compiled loops inside it, others in torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_geo._compat.torch import depends_on_leaf
from pyro_geo._process import alone, one_thread, outside
from pyro_geo.filtering.hgf._operators import LastDerivative, register
from pyro_geo.filtering.hgf.network.graph import Edge, Graph, Input, build_graph
from pyro_geo.filtering.hgf.network.prediction import NetworkInputs, NetworkParameters
from pyro_geo.filtering.hgf.network.scan import network_scan
from pyro_geo.filtering.hgf.parameters import Update

__all__ = ["can_be_opaque", "opaque_scan"]

_DATA = "Tensor theta, Tensor u, Tensor observed, Tensor time"
_PULL = "Tensor d_mu, Tensor d_pi"
_OPTIONS = "str graph, str update, int by_data"
_NUM_OPTIONS = 3


def can_be_opaque(graph: Graph, number: Tensor) -> bool:
    """Tell whether an operation can stand for the filter of a network.

    Args:
        graph: of the network; functions of value parents cannot be written down.
        number: any of its parameters.

    Returns:
        Whether it can.
    """
    plain = all(edge.function is None for edge in graph.value_edges)
    return plain and number.device.type == "cpu"


def opaque_scan(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    *,
    update: Update,
) -> tuple[Tensor, Tensor]:
    """Filter a network as one operation, with two derivatives.

    Args:
        graph: of the network.
        parameters: its numbers.
        inputs: what is observed.
        update: rule for volatility parents.

    Returns:
        What :func:`~pyro_geo.filtering.hgf.network.scan.network_scan` returns.
    """
    batch = torch.broadcast_shapes(
        parameters.mu0.shape[:-1], inputs.u.shape[:-2], inputs.time_step.shape[:-1]
    )

    def lanes(x: Tensor, axes: int) -> Tensor:
        return x.expand(*batch, *x.shape[x.dim() - axes :]).reshape(
            -1, *x.shape[x.dim() - axes :]
        )

    theta = lanes(torch.cat(list(parameters), -1), 1)
    u, observed = lanes(inputs.u, 2), lanes(inputs.observed, 2)
    time = lanes(inputs.time_step, 1)
    by_data = int(depends_on_leaf(u) or depends_on_leaf(time))
    options = _text_of(graph), update, by_data
    mu, pi = _Beliefs.apply(theta, u, observed, time, *options)
    return mu.reshape(*batch, *mu.shape[1:]), pi.reshape(*batch, *pi.shape[1:])


def _text_of(graph: Graph) -> str:
    edges = [
        (edge.child, edge.parent, edge.coupling)
        for edge in (*graph.value_edges, *graph.volatility_edges)
    ]
    inputs = [(seen.name, seen.state, seen.kind) for seen in graph.inputs]
    return json.dumps([graph.names, edges, inputs])


@lru_cache(maxsize=256)
def _graph_of(text: str) -> Graph:
    names, edges, inputs = json.loads(text)
    return build_graph(
        names, [Edge(*edge) for edge in edges], [Input(*x) for x in inputs]
    )


@lru_cache(maxsize=256)
def _layout_of(text: str) -> tuple[NDArray[Any], ...]:
    """Give the order of states, the two kinds of edges and the inputs as indices."""
    graph = _graph_of(text)
    index = {name: a for a, name in enumerate(graph.names)}

    def pairs(edges: Sequence[Edge]) -> NDArray[np.int64]:
        found = [(index[edge.child], index[edge.parent]) for edge in edges]
        return np.array(found, np.int64).reshape(-1, 2)

    seen = [(index[x.state], int(x.kind == "binary")) for x in graph.inputs]
    return (
        np.array(graph.downward, np.int64),
        pairs(graph.value_edges),
        pairs(graph.volatility_edges),
        np.array(seen, np.int64),
    )


# -- operations: lanes come first, and the texts last ---------------------------------


def _scan(
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    text: str,
    update: str,
    by_data: int,
) -> tuple[Tensor, Tensor]:
    graph = _graph_of(text)
    states = len(graph.names)
    sizes = [states] * 5
    sizes += [len(graph.value_edges), len(graph.volatility_edges), len(graph.inputs)]
    parameters = NetworkParameters(*theta.split(sizes, -1))
    inputs = NetworkInputs(u, observed, time)
    return network_scan(graph, parameters, inputs, update=cast(Update, update))


def _loops(
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    text: str,
    *pulls: Tensor,
) -> tuple[Tensor, ...]:
    """Run the compiled loops: for derivatives with `pulls`, else for beliefs."""
    from pyro_geo.filtering.hgf.network.compiled import run_lanes

    double = [x.double().contiguous().numpy() for x in (theta, u, time)]
    shape = (theta.shape[0], time.shape[-1], len(_graph_of(text).names))
    none = np.empty((0, 0, 0))
    mu, pi = (none, none) if pulls else (np.empty(shape), np.empty(shape))
    slope = np.zeros(theta.shape) if pulls else np.empty((0, 0))
    weights = [x.double().contiguous().numpy() for x in pulls] or [none, none]
    data = [*double[:2], observed.contiguous().numpy(), double[2]]
    arguments = [*data, *_layout_of(text), *weights, mu, pi, slope]
    if run_lanes.signatures:
        run_lanes(*arguments)
    else:  # compiled or loaded here
        with alone("hgf_network"):
            run_lanes(*arguments)
    found = (slope,) if pulls else (mu, pi)
    return tuple(torch.from_numpy(x).to(theta.dtype) for x in found)


def _beliefs(
    theta: Tensor, u: Tensor, observed: Tensor, time: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    text, update, _ = options
    if update == "unbounded":
        return _loops(theta, u, observed, time, text)
    with torch.no_grad(), one_thread():
        return _scan(theta, u, observed, time, *options)


def _beliefs_shape(
    theta: Tensor, u: Tensor, observed: Tensor, time: Tensor, text: str, *rest: Any
) -> tuple[Tensor, Tensor]:
    shape = (theta.shape[0], time.shape[-1], len(_graph_of(text).names))
    return theta.new_empty(shape), theta.new_empty(shape)


def _slopes(
    leaves: Sequence[Tensor], observed: Tensor, *options: Any, again: bool
) -> tuple[Tensor, ...]:
    """Differentiate beliefs, weighed by the last two leaves, by the first three."""
    theta, u, time, d_mu, d_pi = leaves
    mu, pi = _scan(theta, u, observed, time, *options)
    pulled = (torch.where(mu.isnan(), 0.0, mu) * d_mu).sum()
    pulled = pulled + (torch.where(pi.isnan(), 0.0, pi) * d_pi).sum()
    by = [theta, u, time]
    found = torch.autograd.grad(pulled, by, create_graph=again, materialize_grads=True)
    return tuple(found)


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


def _pull(
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    d_mu: Tensor,
    d_pi: Tensor,
    *options: Any,
) -> tuple[Tensor, ...]:
    text, update, by_data = options
    if update == "unbounded" and not by_data:
        (slope,) = _loops(theta, u, observed, time, text, d_mu, d_pi)
        return slope, torch.zeros_like(u), torch.zeros_like(time)

    def call() -> tuple[Tensor, ...]:
        leaves = _leaves(theta, u, time, d_mu, d_pi)
        return _slopes(leaves, observed, *options, again=False)

    return outside(call, grad=True)


def _pull_shape(
    theta: Tensor, u: Tensor, observed: Tensor, time: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return torch.empty_like(theta), torch.empty_like(u), torch.empty_like(time)


def _second(
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    d_mu: Tensor,
    d_pi: Tensor,
    a_theta: Tensor,
    a_u: Tensor,
    a_time: Tensor,
    *options: Any,
) -> tuple[Tensor, ...]:
    def call() -> tuple[Tensor, ...]:
        leaves = _leaves(theta, u, time, d_mu, d_pi)
        slopes = _slopes(leaves, observed, *options, again=True)
        along = zip(slopes, (a_theta, a_u, a_time), strict=True)
        product = torch.stack([(slope * a).sum() for slope, a in along]).sum()
        return torch.autograd.grad(product, leaves, materialize_grads=True)

    return outside(call, grad=True)


def _second_shape(
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    d_mu: Tensor,
    d_pi: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (theta, u, time, d_mu, d_pi))


register(
    "hgf_network",
    f"({_DATA}, {_OPTIONS}) -> (Tensor, Tensor)",
    _beliefs,
    _beliefs_shape,
)
register(
    "hgf_network_pull",
    f"({_DATA}, {_PULL}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _pull,
    _pull_shape,
)
register(
    "hgf_network_second",
    f"({_DATA}, {_PULL}, Tensor a_theta, Tensor a_u, Tensor a_time, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _second,
    _second_shape,
)


class _Second(LastDerivative):
    """Second derivatives, by the filter in operations of torch."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return torch.ops.pyro_geo.hgf_network_second(*args)


class _Pull(torch.autograd.Function):
    """Derivatives of the filter, differentiable once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return torch.ops.pyro_geo.hgf_network_pull(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:-_NUM_OPTIONS])
        ctx.options = inputs[-_NUM_OPTIONS:]

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> Any:
        found = _Second.apply(*ctx.saved_tensors, *along, *ctx.options)
        theta, u, time, d_mu, d_pi = found
        return theta, u, None, time, d_mu, d_pi, *(None,) * _NUM_OPTIONS


class _Beliefs(torch.autograd.Function):
    """Means and precisions of each step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return torch.ops.pyro_geo.hgf_network(*args)

    setup_context = _Pull.setup_context

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        theta, u, time = _Pull.apply(*ctx.saved_tensors, *grads, *ctx.options)
        return theta, u, None, time, *(None,) * _NUM_OPTIONS
