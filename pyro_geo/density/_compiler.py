"""Inductor, and what its graphs need before it: the one place that knows it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

__all__ = ["FlatFunction", "compile_graph", "own_what_is_written"]

FlatFunction = Callable[..., Sequence[Tensor]]

_WRITES = {
    torch.ops.aten.index_put.default,
    torch.ops.aten._unsafe_index_put.default,
    torch.ops.aten.index_add.default,
    torch.ops.aten.index_copy.default,
}


def own_what_is_written(graph: GraphModule) -> None:
    """Give every lane memory of its own before something is written into it, in place.

    `vmap` makes an expanded tensor of a constant that values are written into.
    Inductor turns such a write into one in place, and all lanes then get the values of
    the last one (pytorch issue 183986).
    """
    for node in graph.graph.nodes:
        if node.target not in _WRITES:
            continue
        base = node.args[0]
        value = base.meta["val"]
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


def compile_graph(graph: GraphModule, examples: list[Any]) -> FlatFunction:
    """Compile a traced graph through Inductor's disk cache.

    Args:
        graph: of a function of flat tensors.
        examples: tensors of the shapes to come.

    Returns:
        The compiled function. What the compiler raises has no common base.
    """
    import torch._inductor.config as config
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    if config.cpp.vec_isa_ok is not None:
        return _inductor(graph, examples)
    try:
        # believe the processor's own list of what it can do: Inductor would compile
        # and load a probe for each item, in every process, for a second or more
        with config.patch({"cpp.vec_isa_ok": True}):
            return _inductor(graph, examples)
    except Exception:  # the compiler may know less than the processor: ask it
        valid_vec_isa_list.cache_clear()
        return _inductor(graph, examples)


def _inductor(graph: GraphModule, examples: list[Any]) -> FlatFunction:
    import torch._inductor
    import torch._inductor.config as config

    with (
        torch.no_grad(),
        # threads change the last bits with the core count; cores serve other chains
        config.patch({"cpp.threads": 1}),
        warnings.catch_warnings(),
    ):
        # what Inductor itself uses and should not is no news to the caller, and where
        # warnings are errors it would end the compilation
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return torch._inductor.standalone_compile(
            graph, examples, dynamic_shapes="from_example_inputs"
        )
