"""Whether compiling a graph pays: what it costs, against what its calls then save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["GraphSize", "compiling", "showing_compilation", "worthwhile_steps"]


class GraphSize(NamedTuple):
    """How large a traced graph is; nothing where there is none.

    Attributes:
        operations: that one call makes.
        elements: numbers in the results of all of them.
        steps: that one call makes, where it is called in a loop.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> import torch
        >>> GraphSize.of(make_fx(lambda x: 2 * x + 1)(torch.ones(3)))
        GraphSize(operations=2, elements=6, steps=1)
    """

    operations: int = 0
    elements: int = 0
    steps: int = 1

    @classmethod
    def of(cls, graph: GraphModule) -> GraphSize:
        """Count the operations of a graph, and the numbers in their results.

        Args:
            graph: traced, so that each node knows the shape of its result.

        Returns:
            The size.
        """
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        return cls(len(nodes), sum(map(_elements, nodes)))


def _elements(node: Node) -> int:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return sum(x.numel() for x in values if isinstance(x, Tensor))


# Processor seconds with an empty cache, fitted to steps of HMC on the ten models of
# `benchmarks/auto_compile.py` at 4 and 64 chains. Compiling costs a start of the
# compiler, and as much again for each operation. A traced call spends most of its time
# between the operations: compiling saves that, and for each number the memory traffic
# from one operation to the next. A faster machine divides all four by the same factor,
# so that the rule needs no clock. Code may be in the cache on disk already, and loading
# it takes a second; but a rule that looked there would let draws depend on it.
_START = 3.0
_PER_OPERATION = 15e-3
_SAVED_PER_OPERATION = 1.1e-6
_SAVED_PER_ELEMENT = 0.1e-9


def worthwhile_steps(size: GraphSize) -> float:
    """Say how many steps are worth compiling their graph for.

    It depends on the size of the graph alone and on no clock, so that the same run is
    compiled at the same place every time. A large graph saves more with each step,
    and takes longer to compile in proportion: for steps of HMC on usual models the
    number is between ten and fifty thousand.

    Args:
        size: of the graph.

    Returns:
        Steps; infinity where there is no graph.

    Example:
        >>> round(worthwhile_steps(GraphSize(operations=400, elements=100_000)))
        20000
        >>> worthwhile_steps(GraphSize())
        inf
    """
    if not size.operations:
        return math.inf
    cost = _START + _PER_OPERATION * size.operations
    saved = _SAVED_PER_OPERATION * size.operations + _SAVED_PER_ELEMENT * size.elements
    return cost / saved * size.steps


# -- showing it -----------------------------------------------------------------------

Shown = Callable[[int], AbstractContextManager[object]]

_shown: ContextVar[Shown] = ContextVar("shown", default=nullcontext)


@contextmanager
def showing_compilation(shown: Shown) -> Iterator[None]:
    """Have each compilation in this context shown.

    Args:
        shown: makes a context to compile in from the number of operations.
    """
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


def compiling(size: GraphSize) -> AbstractContextManager[object]:
    """Make the context to compile a graph in, which shows it if anything does.

    Args:
        size: of the graph.

    Returns:
        The context.
    """
    return _shown.get()(size.operations)
