"""Read the numbers of a network's modules into stacked tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_geo._compat.torch import is_concrete
from pyro_geo.checks import check
from pyro_geo.errors import HGFDomainError, HGFShapeError
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import NetworkParameters
from pyro_geo.filtering.hgf.network.trajectory import NetworkState

__all__ = ["precision_key", "read_parameters"]


def precision_key(name: str, state: str) -> str:
    """Name the attribute of a state that holds the precision of an input.

    Args:
        name: of the input.
        state: that it observes.

    Returns:
        The name.

    Example:
        >>> precision_key("eye", "position")
        'input_precision_eye'
    """
    return "input_precision" if name == state else f"input_precision_{name}"


def read_parameters(
    network: nn.Module,
    graph: Graph,
    like: Tensor | None,
    *,
    replaced: Mapping[str, Tensor] | None = None,
    init_state: NetworkState | None = None,
) -> NetworkParameters:
    """Read every number once, which samples those that have priors.

    Args:
        network: with a module for each state.
        graph: of the network.
        like: data whose floating type counts beside that of the numbers.
        replaced: numbers by name in place of the network's.
        init_state: beliefs in place of `mu0` and `pi0`.

    Returns:
        Numbers of one floating type and one batch.

    Raises:
        HGFShapeError: the batches do not broadcast.
    """
    given = dict(replaced or {})
    if init_state is not None:
        for name in graph.names:
            given[f"{name}.mu0"] = init_state.mu[name]
            given[f"{name}.pi0"] = init_state.pi[name]
    names = _names(graph)
    known = [name for row in names.values() for name in row if name is not None]
    for name in given:
        check(name in known, "parameters", name, f"among {', '.join(known)}")
    values = {
        name: given[name] if name in given else _value(network, name) for name in known
    }
    tensors = [x for x in [like, *values.values()] if isinstance(x, Tensor)]
    floating = [x for x in tensors if x.is_floating_point()]
    dtype = torch.get_default_dtype()
    if floating:
        dtype = floating[0].dtype
        for x in floating[1:]:
            dtype = torch.promote_types(dtype, x.dtype)
    device = floating[0].device if floating else None
    values = {
        name: torch.as_tensor(x, dtype=dtype, device=device)
        for name, x in values.items()
    }
    shapes = {name: tuple(x.shape) for name, x in values.items()}
    try:
        batch = torch.broadcast_shapes(*shapes.values())
    except RuntimeError as error:
        raise HGFShapeError(
            "batches of parameters do not broadcast",
            where="network",
            found={name: shape for name, shape in shapes.items() if shape},
            expected="shapes that broadcast",
            todo="Give them axes that match those of the data's batch.",
        ) from error
    if is_validation_enabled() and is_concrete(*values.values()):
        _check_positive(values)
    return NetworkParameters(
        **{key: _stack(row, values, batch) for key, row in names.items()}
    )


def _names(graph: Graph) -> dict[str, list[str | None]]:
    """Name the numbers in the order in which they are stacked."""
    found: dict[str, list[str | None]] = {
        key: [f"{name}.{key}" for name in graph.names]
        for key in ("omega", "drift", "autoconnection", "mu0", "pi0")
    }
    found["value_coupling"] = [
        f"{edge.child}.psi_{edge.parent}" for edge in graph.value_edges
    ]
    found["kappa"] = [
        f"{edge.child}.kappa_{edge.parent}" for edge in graph.volatility_edges
    ]
    found["input_precision"] = [
        f"{seen.state}.{precision_key(seen.name, seen.state)}"
        if seen.kind == "continuous"
        else None
        for seen in graph.inputs
    ]
    return found


def _value(network: nn.Module, name: str) -> Any:
    state, key = name.split(".")
    return getattr(getattr(network, state), key)


def _stack(
    names: list[str | None], values: Mapping[str, Tensor], batch: torch.Size
) -> Tensor:
    one = next(iter(values.values())).new_ones(())
    rows = [(one if name is None else values[name]).expand(batch) for name in names]
    return torch.stack(rows, -1) if rows else one.new_empty(*batch, 0)


def _check_positive(values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        positive = name.split(".")[1].startswith(("pi0", "input_precision"))
        good = value.isfinite() & (value > 0) if positive else value.isfinite()
        if not bool(good.all()):
            place = tuple((~good).nonzero()[0].tolist())
            raise HGFDomainError(
                "parameter out of range",
                where=f"{name}, batch {place}",
                found=value[place].item(),
                expected="above 0 and finite" if positive else "finite",
                todo="Correct it, or give it a prior with that support.",
            )
