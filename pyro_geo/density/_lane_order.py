"""Graphs in which a lane gives the same numbers at every place.

The product of all lanes with a shared matrix is one call of the BLAS. For some sizes
its kernels treat the rows at the edge of a tile differently, so that the same
trajectory has other last bits in another lane. One product for each lane avoids that,
because all these products have the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["depends_on_lane", "make_lanes_interchangeable", "separate_products"]

_ROUNDS = 8  # with few lanes, one round may agree by chance
_MM = torch.ops.aten.mm.default


def make_lanes_interchangeable(
    graph: GraphModule, leaves: Sequence[Tensor], laned: Sequence[bool]
) -> bool:
    """Change a graph, in place, if a lane's numbers depend on its place.

    Args:
        graph: function of the leaves.
        leaves: inputs of the shapes to come.
        laned: whether each input has a leading axis of lanes. If none has, there is
            nothing to do.

    Returns:
        Whether the numbers are now independent of the place.
    """
    if not any(laned) or not depends_on_lane(graph, leaves, laned):
        return True
    separate_products(graph, len(leaves[list(laned).index(True)]))
    return not depends_on_lane(graph, leaves, laned)


def depends_on_lane(
    graph: GraphModule, leaves: Sequence[Tensor], laned: Sequence[bool]
) -> bool:
    """Run a graph with the lanes in order and in two others, and compare every bit.

    Args:
        graph: function of the leaves, its outputs all with a leading axis of lanes.
        leaves: inputs. Those with lanes are perturbed first, because lanes that are
            equal, or all zeros, prove nothing.
        laned: whether each input has a leading axis of lanes.

    Returns:
        Whether a lane's numbers depend on its place.
    """
    num_lanes = len(leaves[list(laned).index(True)])
    orders = torch.arange(num_lanes).flip(0), torch.arange(num_lanes).roll(1)
    generator = torch.Generator().manual_seed(0)  # the same graph for the same model
    for _ in range(_ROUNDS):
        perturbed = [
            _perturbed(leaf, generator) if has_lanes else leaf
            for leaf, has_lanes in zip(leaves, laned, strict=True)
        ]
        if any(_differs(graph, perturbed, laned, order) for order in orders):
            return True
    return False


def _differs(
    graph: GraphModule,
    leaves: Sequence[Tensor],
    laned: Sequence[bool],
    order: Tensor,
) -> bool:
    """Whether lanes in another order give other bits."""
    permuted = [
        leaf[order] if has_lanes else leaf
        for leaf, has_lanes in zip(leaves, laned, strict=True)
    ]
    with torch.no_grad():
        straight, other = graph(*leaves), graph(*permuted)
    return not all(
        torch.equal(_bits(x[order]), _bits(y))
        for x, y in zip(straight, other, strict=True)
    )


def _perturbed(leaf: Tensor, generator: torch.Generator) -> Tensor:
    """Change floating numbers a little, each by its own amount."""
    if not leaf.is_floating_point():
        return leaf
    noise = 0.05 * torch.randn(leaf.shape, generator=generator).to(leaf)
    return torch.where(leaf == 0, noise, leaf * (1 + noise))


def separate_products(graph: GraphModule, num_lanes: int) -> None:
    """Make each matrix product over lanes one product per lane, in place.

    The products concerned then take about twice their time.

    Args:
        graph: traced graph; its nodes know their shapes.
        num_lanes: length of the axis of lanes.
    """
    for node in list(graph.graph.nodes):
        if node.target is not _MM:
            continue
        first, second = node.args
        rows, columns = first.meta["val"].shape[0], second.meta["val"].shape[1]
        if num_lanes not in (rows, columns):
            continue
        with graph.graph.inserting_before(node):
            # Lanes may be the rows of the product or, as (A B)' = B' A', its columns.
            if rows == num_lanes:
                product = _each_row(graph, first, second, num_lanes)
            else:
                product = _transposed(
                    graph,
                    _each_row(
                        graph,
                        _transposed(graph, second),
                        _transposed(graph, first),
                        num_lanes,
                    ),
                )
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)
    graph.recompile()


def _each_row(graph: GraphModule, rows: Node, matrix: Node, num_lanes: int) -> Node:
    """Multiply `(lanes, k)` with `(k, n)`, row by row."""
    aten = torch.ops.aten
    call = graph.graph.call_function
    single = call(aten.unsqueeze.default, (rows, 1))
    shared = call(aten.unsqueeze.default, (matrix, 0))
    shared = call(aten.expand.default, (shared, [num_lanes, -1, -1]))
    return call(aten.squeeze.dim, (call(aten.bmm.default, (single, shared)), 1))


def _transposed(graph: GraphModule, node: Node) -> Node:
    return graph.graph.call_function(torch.ops.aten.t.default, (node,))


def _bits(x: Tensor) -> Tensor:
    """Replace NaN, which is not equal to itself, by infinity."""
    return torch.where(x.isnan(), torch.inf, x) if x.is_floating_point() else x
