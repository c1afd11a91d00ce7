"""Which states drive which, what is observed of them, and in which order to visit them.

A graph holds names and indices alone. The numbers that go with it are in
:class:`~pyro_geo.filtering.hgf.network.scan.NetworkParameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from torch import Tensor

from pyro_geo.checks import check_choice
from pyro_geo.errors import HGFGraphError

__all__ = ["Coupling", "Edge", "Graph", "Input", "InputKind", "build_graph"]

Coupling = Literal["value", "volatility"]
InputKind = Literal["continuous", "binary"]


@dataclass(frozen=True)
class Edge:
    """A parent that drives a child.

    Attributes:
        child: name of the driven state.
        parent: name of the driving state.
        coupling: whether the parent moves the child's mean ("value") or its logarithm
            of variance ("volatility").
        function: what a value parent's state goes through; None for the state itself.
    """

    child: str
    parent: str
    coupling: Coupling
    function: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Input:
    """What is observed of a state.

    Attributes:
        name: of the input, its key in data and results.
        state: name of the observed state.
        kind: "continuous", the state with Gaussian noise, or "binary", a coin whose
            log-odds are the state.
    """

    name: str
    state: str
    kind: InputKind


@dataclass(frozen=True)
class Graph:
    """A network without cycles, something of which is observed.

    Attributes:
        names: of the states, in the order in which they were added.
        inputs: in the order in which they were added.
        value_edges: in the order in which they were added.
        volatility_edges: in the order in which they were added.
        downward: indices of states, parents before their children.
    """

    names: tuple[str, ...]
    inputs: tuple[Input, ...]
    value_edges: tuple[Edge, ...]
    volatility_edges: tuple[Edge, ...]
    downward: tuple[int, ...]

    def parents(self, state: int, coupling: Coupling) -> list[tuple[int, int]]:
        """List the parents of a state as (index of the edge, index of the parent)."""
        return self._neighbours[coupling, "parents"][state]

    def children(self, state: int, coupling: Coupling) -> list[tuple[int, int]]:
        """List the children of a state as (index of the edge, index of the child)."""
        return self._neighbours[coupling, "children"][state]

    def inputs_of(self, state: int) -> list[int]:
        """List the indices of the inputs that observe a state."""
        name = self.names[state]
        return [k for k, seen in enumerate(self.inputs) if seen.state == name]

    @cached_property
    def _neighbours(self) -> dict[tuple[str, str], list[list[tuple[int, int]]]]:
        found: dict[tuple[str, str], list[list[tuple[int, int]]]] = {
            (coupling, side): [[] for _ in self.names]
            for coupling in ("value", "volatility")
            for side in ("parents", "children")
        }
        index = {name: a for a, name in enumerate(self.names)}
        for edges in (self.value_edges, self.volatility_edges):
            for k, edge in enumerate(edges):
                child, parent = index[edge.child], index[edge.parent]
                found[edge.coupling, "parents"][child].append((k, parent))
                found[edge.coupling, "children"][parent].append((k, child))
        return found


def build_graph(
    names: Sequence[str], edges: Iterable[Edge], inputs: Sequence[Input]
) -> Graph:
    """Check a network and put its states in order.

    Args:
        names: of the states.
        edges: of both couplings.
        inputs: what is observed.

    Returns:
        The graph.

    Raises:
        HGFGraphError: a name, an edge or an input is there twice, an edge or an input
            has an unknown state, the edges run in a circle, or nothing is observed.

    Example:
        >>> edge = Edge("level", "volatility", "volatility")
        >>> seen = Input("level", "level", "continuous")
        >>> build_graph(["level", "volatility"], [edge], [seen]).downward
        (1, 0)
    """
    edges = tuple(edges)
    _refuse_repeated("state", names)
    _refuse_repeated("input", [seen.name for seen in inputs])
    kinds = [f"{edge.coupling} edge {edge.parent} -> {edge.child}" for edge in edges]
    _refuse_repeated("edge", kinds)
    for edge in edges:
        check_choice("coupling", edge.coupling, ("value", "volatility"))
        for name in (edge.child, edge.parent):
            _refuse_unknown(name, names, f"{edge.parent} -> {edge.child}")
    for seen in inputs:
        check_choice("kind", seen.kind, ("continuous", "binary"))
        _refuse_unknown(seen.state, names, f"input {seen.name}")
    if not inputs:
        raise HGFGraphError(
            "no state is observed",
            where="network",
            found=f"states {', '.join(names) or 'none'}",
            expected="at least one input",
            todo="Call observe(state, kind).",
        )
    order = _ordered(names, edges)
    return Graph(
        names=tuple(names),
        inputs=tuple(inputs),
        value_edges=tuple(edge for edge in edges if edge.coupling == "value"),
        volatility_edges=tuple(edge for edge in edges if edge.coupling != "value"),
        downward=tuple(list(names).index(name) for name in order),
    )


def _refuse_repeated(what: str, found: Sequence[str]) -> None:
    twice = sorted({name for name in found if list(found).count(name) > 1})
    if twice:
        raise HGFGraphError(
            f"{what} twice",
            where="network",
            found=", ".join(twice),
            expected=f"each {what} once",
            todo="Leave the second one out, or give it a name of its own.",
        )


def _refuse_unknown(name: str, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise HGFGraphError(
            "unknown state",
            where=where,
            found=name,
            expected=f"one of {', '.join(names) or 'none'}",
            todo=f"Call add_state({name!r}, ...) or correct the name.",
        )


def _ordered(names: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """Put parents before children, else in the order of the names."""
    parents: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        parents[edge.child].append(edge.parent)
    try:
        return list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        raise HGFGraphError(
            "states drive each other in a circle",
            where="network",
            found=" -> ".join(error.args[1]),
            expected="no cycle",
            todo="Remove one of these edges.",
        ) from error
