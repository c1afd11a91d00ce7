"""The ladder: a pure function of tensors, run on the highest rung that works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_geo._compat.torch import compile_graph, trace_graph
from pyro_geo._process import Seconds, uninterrupted
from pyro_geo.density._lane_memory import separate_lane_memory
from pyro_geo.density._lane_order import make_lanes_interchangeable
from pyro_geo.density._modes import DataRole, default_dtype, tracing
from pyro_geo.density._trees import FlatFunction, Rebuild, Tree, flatten, rebuilder
from pyro_geo.density.compiling import GraphSize, compiling
from pyro_geo.errors import FallbackWarning, UnsupportedError, explain

__all__ = ["RUNGS", "Lifted", "Rung", "lower_rung"]

Rung = Literal["compiled", "traced", "mapped", "sequential"]
RUNGS: tuple[Rung, ...] = ("compiled", "traced", "mapped", "sequential")


_BY_MASK = (torch.ops.aten.index.Tensor, torch.ops.aten.masked_select.default)


def lower_rung(first: Rung, second: Rung) -> Rung:
    """Return the lower of two rungs."""
    return RUNGS[max(RUNGS.index(first), RUNGS.index(second))]


def fallback_note(
    what: str, reason: BaseException | None, expected: str, to: str, hint: str = ""
) -> str:
    """Write the note that a function runs on a lower rung, with the reason."""
    lines = str(reason).strip().splitlines() or ["no message"]
    return explain(
        what,
        where="the ladder",
        found=f"{type(reason).__name__}: {lines[0][:200]}",
        expected=expected,
        todo=f"Nothing needs doing: {to}, with the same result but slower.{hint}",
    )


def _distinct(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Make a tensor passed twice two objects: they would become one graph input."""
    return [leaf.detach().contiguous().view_as(leaf) for leaf in leaves]


class _Inputs(NamedTuple):
    """What a function is specialised to."""

    data: tuple[Tensor, ...]
    examples: Tree
    flat: list[Tensor]
    laned: list[bool]  # of each flat leaf


class _Traced(NamedTuple):
    """A graph of a function at certain shapes."""

    graph: GraphModule
    rebuild: Rebuild
    data_is_input: bool
    size: GraphSize


class _Variant(NamedTuple):
    """A function specialised to shapes, and where it ended up."""

    call: FlatFunction
    rebuild: Rebuild
    rung: Rung
    data_is_input: bool
    size: GraphSize = GraphSize()


class Lifted:
    """A pure function that is traced, compiled or run as it is.

    Four rungs, fastest first: `compiled` (the traced graph through Inductor, cached
    on disk), `traced` (the graph without handlers), `mapped` (the function itself,
    vectorised over chains) and `sequential` (one chain at a time inside it). A rung
    that fails is left for the next with one :class:`FallbackWarning` that says why.

    Args:
        fn: `fn(data, *inputs)`, pure; `data` is a tuple of tensors and each input a
            tensor or a (named) tuple of tensors. It may differentiate inside.
        name: what the warnings call it.
        ceiling: highest rung worth trying.
        constant_data: make data constants of the graph from the start, with one graph
            for each tuple of data.
        dtype: default floating type while it is traced and run; torch's own when left
            out. A graph keeps no type where an operation takes the default one.

    Example:
        >>> double = Lifted(lambda data, x: 2 * x, name="double")
        >>> double((), torch.ones(2)).tolist(), double.rung
        ([2.0, 2.0], 'traced')
    """

    def __init__(
        self,
        fn: Callable[..., Tree],
        *,
        name: str,
        ceiling: Rung = "compiled",
        constant_data: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.ceiling: Rung = ceiling
        self.rung: Rung = ceiling
        # of the graph that was specialised last
        self.size = GraphSize()
        self.constant_data = constant_data
        self.dtype = dtype
        self.notes: list[str] = []
        # what has been warned about, shared by the functions of one target
        self.warned: set[str] = set()
        self.build_seconds = Seconds()
        self._variants: dict[Any, _Variant] = {}
        self._traces: dict[Any, _Traced] = {}
        # an id is a safe key, because the data are stored too and cannot be replaced
        self._pinned: dict[int, tuple[Tensor, ...]] = {}

    def __call__(
        self,
        data: tuple[Tensor, ...],
        *inputs: Tree,
        rung: Rung = "traced",
        laned: Sequence[bool] = (),
    ) -> Tree:
        """Run on `rung` or the highest one below it that works.

        Args:
            data: tensors that may change between calls without a new trace.
            *inputs: tensors or tuples of tensors.
            rung: the rung wanted.
            laned: see :meth:`specialise`.

        Returns:
            What `fn` returns, detached.
        """
        return self.specialise(data, *inputs, rung=rung, laned=laned)(*inputs)

    def specialise(
        self,
        data: tuple[Tensor, ...],
        *examples: Tree,
        rung: Rung = "traced",
        laned: Sequence[bool] = (),
    ) -> Callable[..., Tree]:
        """Bind the data and the shapes of `examples`, for a loop that calls it often.

        Args:
            data: tensors passed on every call.
            *examples: inputs of the shapes to come.
            rung: the rung wanted.
            laned: which inputs, and with them all outputs, have a leading axis of
                lanes whose numbers must not depend on their place: the graph is tried
                with its lanes in other orders, and changed where they do.

        Returns:
            A function of the inputs alone; other shapes are not checked.
        """
        flat: list[Tensor] = []
        marks: list[bool] = []
        for number, tree in enumerate(examples):
            flatten(tree, flat)
            marks += [number < len(laned) and laned[number]] * (len(flat) - len(marks))
        inputs = _Inputs(data, examples, flat, marks)
        variant = self._variant(inputs, lower_rung(rung, self.ceiling))
        self.size = variant.size
        leading = [t.contiguous() for t in data] if variant.data_is_input else []
        call, rebuild, rung, dtype = (
            variant.call,
            variant.rebuild,
            variant.rung,
            self.dtype,
        )

        def bound(*inputs: Tree) -> Tree:
            self.rung = rung
            leaves: list[Tensor] = []
            flatten(inputs, leaves)
            # graphs have the strides of their examples baked in
            leaves = leading + [leaf.contiguous() for leaf in leaves]
            with torch.no_grad(), default_dtype(dtype):
                outputs = list(call(*leaves))
            outputs.reverse()  # rebuilding takes leaves from the end of the list
            return rebuild(outputs)

        return bound

    def _key(self, inputs: _Inputs) -> Any:
        leaves = (*inputs.data, *inputs.flat)
        signature = tuple([(t.shape, t.dtype, t.device) for t in leaves])
        if not self.constant_data:
            return signature
        self._pinned[id(inputs.data)] = inputs.data
        return (id(inputs.data), signature)

    def _variant(self, inputs: _Inputs, rung: Rung) -> _Variant:
        variant = self._variants.get((rung, self._key(inputs)))
        if variant is None:
            start = Seconds.now()
            with default_dtype(self.dtype):
                variant = self._build(inputs, rung)
            self.build_seconds += Seconds.now() - start
            # building may lower the ceiling or make data constants, so the key that
            # the next call will ask for is known only now
            self._variants[lower_rung(rung, self.ceiling), self._key(inputs)] = variant
        return variant

    def _build(self, inputs: _Inputs, rung: Rung) -> _Variant:
        traced = None
        if rung in ("compiled", "traced"):
            traced = self._trace(inputs, rung)
        if traced is None:
            probe = _Flat(self.fn, len(inputs.data), inputs.examples)
            low = lower_rung(rung, "mapped")
            return _Variant(probe.eager, probe.rebuild, low, data_is_input=True)
        call: FlatFunction = traced.graph
        if rung == "compiled":
            leading = inputs.data if traced.data_is_input else ()
            examples = _distinct([*leading, *inputs.flat])
            try:
                with compiling(traced.size):
                    call = compile_graph(traced.graph, examples)
            except Exception as reason:  # the compiler's errors have no common base
                self.ceiling = rung = "traced"
                self._step_down("compiled", "traced", reason)
        return _Variant(call, traced.rebuild, rung, *traced[2:])

    def _trace(self, inputs: _Inputs, rung: Rung) -> _Traced | None:
        """Trace with data as inputs, else as constants; None where neither works."""
        key = self._key(inputs)
        if key in self._traces:
            return self._traces[key]
        data, examples, flat, laned = inputs
        reason: Exception | None = None
        graph: GraphModule | None = None
        probe = _Flat(self.fn, len(data), examples)
        leaves = [*data, *flat]
        if not self.constant_data:
            graph, reason = _graph_of(probe, leaves, "inputs")
            if graph is None and data:
                self.constant_data = True
                self._step_down("data as graph inputs", "data as constants", reason)
        if graph is None:  # without data, a number that is read is a constant anyway
            probe, leaves = _Flat(self.fn, 0, examples, constants=data), flat
            graph, reason = _graph_of(probe, leaves, "constants")
        if graph is None:
            self.constant_data, self.ceiling = False, "mapped"
            self._step_down(rung, "mapped", reason)
            return None
        # data have no lanes, whether or not they are inputs
        marks = [False] * (len(leaves) - len(flat)) + laned
        if not make_lanes_interchangeable(graph, leaves, marks):
            self._note(
                explain(
                    f"{self.name} rounds by lane",
                    where="the ladder",
                    found="last bits that depend on the number of a lane",
                    expected="the same numbers in every lane",
                    todo="Keep the number of chains and lanes to reproduce draws.",
                )
            )
        size = GraphSize.of(graph)
        traced = _Traced(graph, probe.rebuild, not self.constant_data, size)
        self._traces[self._key(inputs)] = traced
        return traced

    def _step_down(self, rung: str, to: str, reason: Exception | None) -> None:
        note = fallback_note(
            f"{self.name} cannot use the rung '{rung}'",
            reason,
            expected="a graph that compiles"
            if rung == "compiled" and to == "traced"
            else "a function of tensors alone",
            to=f"it runs with '{to}'",
        )
        self._note(note, f"{rung} {to} {type(reason).__name__}")

    def _note(self, note: str, about: str = "") -> None:
        """Record a note; warn unless another function has warned of the same."""
        self.notes.append(note)
        if about and about in self.warned:
            return
        self.warned.add(about)
        warnings.warn(note, FallbackWarning, stacklevel=2)


class _Flat:
    """A function of trees as a function of its flat leaves."""

    def __init__(
        self,
        fn: Callable[..., Tree],
        num_data: int,
        examples: Tree,
        constants: tuple[Tensor, ...] = (),
    ) -> None:
        self.fn = fn
        self.num_data = num_data
        self.constants = constants
        # the trees are taken apart once: calls pass leaves in a fixed order
        self._inputs = rebuilder(examples)
        self._output: Rebuild | None = None

    def __call__(self, *leaves: Tensor) -> list[Tensor]:
        data = self.constants or tuple(leaves[: self.num_data])
        rest = list(leaves[self.num_data :])
        rest.reverse()
        result = self.fn(data, *self._inputs(rest))
        flat: list[Tensor] = []
        flatten(result, flat)
        if self._output is None:
            self._output = rebuilder(result)
        return [leaf.detach() for leaf in flat]

    def eager(self, *leaves: Tensor) -> list[Tensor]:
        """Run as it is, with gradients allowed inside."""
        with torch.enable_grad():
            return self(*leaves)

    def rebuild(self, leaves: list[Tensor]) -> Tree:
        """Put reversed output leaves back in the function's own shape."""
        if self._output is None:
            raise RuntimeError("the function has not run yet")
        return self._output(leaves)


@uninterrupted(insist=False)  # torch's callbacks swallow one that strikes in them
def _graph_of(
    probe: _Flat, leaves: Sequence[Tensor], role: DataRole
) -> tuple[GraphModule | None, Exception | None]:
    """Trace a flat function; on failure return the reason instead."""
    views = _distinct(leaves)
    try:
        with torch.enable_grad(), tracing(role):
            graph = trace_graph(probe, *views)
        graph.graph.eliminate_dead_code()
        separate_lane_memory(graph)
        if role == "inputs":
            _check_shapes_are_fixed(graph)
    except Exception as reason:  # a user's model runs in there and may raise anything
        return None, reason
    graph.recompile()
    return graph, None


def _check_shapes_are_fixed(graph: GraphModule) -> None:
    """Refuse sizes that depend on values: they would be those of the first data."""
    varies: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not varies.isdisjoint(node.all_input_nodes):
            varies.add(node)
        if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        sources = node.all_input_nodes
        if node.target in _BY_MASK:  # only masks decide on shapes
            masks = (torch.bool, torch.uint8)
            sources = [i for i in sources[1:] if i.meta["val"].dtype in masks]
        if not varies.isdisjoint(sources):
            raise UnsupportedError(
                "a shape depends on the values of the data",
                where=f"operation {node.target}",
                found=f"shape {tuple(node.meta['val'].shape)}",
                expected="shapes that follow from other shapes",
                todo="Use a mask, or select the data before the model runs.",
            )
