"""Traced graphs in which every lane writes into memory of its own."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from pyro_geo._compat.torch import UNSAFE_INDEX_PUT

__all__ = ["separate_lane_memory"]

_WRITES = {
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_add.default,
    torch.ops.aten.index_copy.default,
    UNSAFE_INDEX_PUT,
}


def separate_lane_memory(graph: GraphModule) -> None:
    """Copy a tensor that lanes share before values are written into it, in place.

    A constant that a model writes into becomes one expanded tensor under `vmap`: all
    lanes share its memory. Inductor turns the write into one in place, and then every
    lane reads the values of the last one (pytorch issue 183986).

    Args:
        graph: traced graph; its nodes know their shapes.
    """
    for node in graph.graph.nodes:
        if node.target not in _WRITES:
            continue
        base = node.args[0]
        value = base.meta["val"]
        # an axis of stride 0 is an expanded one: its entries are one number in memory
        if any(
            s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True)
        ):
            with graph.graph.inserting_before(node):
                owned = graph.graph.call_function(
                    torch.ops.aten.clone.default,
                    (base,),
                    {"memory_format": torch.contiguous_format},
                )
            owned.meta["val"] = value.contiguous()
            node.replace_input_with(base, owned)
