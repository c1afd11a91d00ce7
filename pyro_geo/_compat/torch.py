"""What we use of torch's private interfaces, seen with torch 2.13.0.

Each name below has a test in `tests/compat/test_torch.py` that fails when torch changes
it. `pyproject.toml` bounds torch from above for the same reason.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
)
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "check_sample",
    "TorchDispatchMode",
    "RNN_CHECK",
    "UNSAFE_INDEX_PUT",
    "categorical_of",
    "compile_graph",
    "constants",
    "depends_on_leaf",
    "dirichlet_of_beta",
    "disable_modes",
    "draw_dirichlet",
    "initialise_layer",
    "is_batchedtensor",
    "is_concrete",
    "load_forward_mode",
    "multiply_each",
    "norm_of_each",
    "pytree",
    "subtract_each",
    "switch_validation_off",
    "take_from_each",
    "trace_graph",
    "validates",
    "version_of",
]

UNSAFE_INDEX_PUT = torch.ops.aten._unsafe_index_put.default
"""The write by index that `vmap` and decompositions leave in a traced graph."""


_CHECK_INPUT = torch.nn.RNNBase.check_input


def _check_input(self: Any, input: Tensor, batch_sizes: Tensor | None) -> None:
    """Check the input of a recurrent layer, but not its floating type."""
    _CHECK_INPUT(self, input.to(self._flat_weights[0].dtype), batch_sizes)


RNN_CHECK: tuple[Any, str, Any] = (torch.nn.RNNBase, "check_input", _check_input)
"""Class, name of a method and its replacement, where types are cast after the check."""


def trace_graph(function: Callable[..., Any], *examples: Tensor) -> GraphModule:
    """Record the operations of a function of tensors.

    `make_fx` notes a shape beside every operation, and makes a mode of fake tensors for
    each of them. A mode looks up the lines of the whole call stack when it is made, and
    that takes more than half of a trace; it takes the mode of the context where there
    is one.

    Args:
        function: called once with the examples.
        *examples: tensors of the shapes to come.

    Returns:
        The graph.
    """
    with tracing(TracingContext(FakeTensorMode())):
        return make_fx(function)(*examples)


def compile_graph(
    graph: GraphModule, examples: list[Any]
) -> Callable[..., Sequence[Tensor]]:
    """Compile a traced graph with Inductor, through its cache on disk.

    `torch._inductor.standalone_compile` loads a graph that another process compiled
    in 0.1 s; `torch._inductor.compile` bypasses the cache.

    Args:
        graph: of a function of flat tensors.
        examples: tensors of the shapes to come.

    Returns:
        The compiled function. What the compiler raises has no common base class.
    """
    import torch._inductor.config as config
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    if config.cpp.vec_isa_ok is not None:
        return _compile(graph, examples)
    try:
        # Believe the processor's list of its vector instructions. Otherwise Inductor
        # compiles and loads a probe for each of them, a second or more per process.
        with config.patch({"cpp.vec_isa_ok": True}):
            return _compile(graph, examples)
    except Exception:  # the compiler may know fewer instructions: let Inductor probe
        valid_vec_isa_list.cache_clear()
        return _compile(graph, examples)


def _compile(
    graph: GraphModule, examples: list[Any]
) -> Callable[..., Sequence[Tensor]]:
    import torch._inductor
    import torch._inductor.config as config

    with (
        torch.no_grad(),
        # With threads the last bits depend on the number of cores. Other cores serve
        # other chains.
        config.patch({"cpp.threads": 1}),
        warnings.catch_warnings(),
    ):
        # Inductor itself calls deprecated functions. Where warnings are errors, that
        # would end the compilation.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return torch._inductor.standalone_compile(
            graph, examples, dynamic_shapes="from_example_inputs"
        )


def disable_modes() -> Any:
    """Make a context whose operations no trace and no dispatch mode sees."""
    return _disable_current_modes()


@contextmanager
def constants() -> Iterator[None]:
    """Make tensors that no mode and no trace of the caller sees or changes.

    What is computed here and kept, in a cache say, is the same for every caller.
    """
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


@functools.cache
def load_forward_mode() -> None:
    """Load what derivatives in forward mode need, which torch does at their first use.

    It then calls functions of its own that are deprecated. Where warnings are errors,
    that would end a run.
    """
    one = torch.ones(())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (one,), (one,))


def is_concrete(*tensors: Tensor) -> bool:
    """Tell whether values may be looked at: no trace, no transform, no fake tensor."""
    if torch.compiler.is_compiling() or get_proxy_mode() is not None:
        return False
    return not any(
        is_functorch_wrapped_tensor(x) or isinstance(x, FakeTensor) for x in tensors
    )


def depends_on_leaf(tensor: Tensor) -> bool:
    """Tell whether a tensor has a derivative at any level of nested transforms."""
    # `requires_grad` is that of the last level alone, which a mapped axis hides
    while is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad:
            return True
        tensor = get_unwrapped(tensor)
    return tensor.requires_grad


def version_of(tensor: Tensor) -> int:
    """Count how often a tensor was changed in place."""
    return tensor._version


def draw_dirichlet(concentration: Tensor) -> Tensor:
    """Draw from a Dirichlet distribution with an operation that `vmap` can map."""
    return torch.ops.aten._sample_dirichlet(concentration)


def dirichlet_of_beta(beta: torch.distributions.Beta) -> torch.distributions.Dirichlet:
    """Return the two-dimensional Dirichlet distribution inside a beta distribution."""
    return beta._dirichlet


def categorical_of(
    distribution: torch.distributions.OneHotCategorical
    | torch.distributions.Multinomial,
) -> torch.distributions.Categorical:
    """Return the distribution of a single trial."""
    return distribution._categorical


def validates(distribution: Any) -> bool:
    """Whether a distribution checks the values that it is given."""
    return bool(getattr(distribution, "_validate_args", False))


def switch_validation_off(distribution: Any) -> None:
    """Make a distribution accept every value, in place."""
    distribution._validate_args = False


def check_sample(distribution: Any, value: Tensor) -> None:
    """Refuse values outside of a distribution's support, if it checks values.

    Args:
        distribution: of the values.
        value: raises `ValueError` where it has the wrong shape or range.
    """
    if validates(distribution):
        distribution._validate_sample(value)


def initialise_layer(layer: torch.nn.Module) -> None:
    """Draw the parameters of one layer anew, as its constructor does.

    Attention layers call the method `_reset_parameters`, all others
    `reset_parameters`. A layer with neither stays as it is.

    Args:
        layer: changed in place; its child modules are left alone.
    """
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(layer, name, None)
        if callable(reset):
            reset()


# -- lists of tensors: a few launches for all of them ---------------------------------

_torch: Any = torch  # has these functions, but does not export their types


def subtract_each(values: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """Subtract one list of tensors from another."""
    return list(_torch._foreach_sub(values, others))


def norm_of_each(values: list[Tensor]) -> list[Tensor]:
    """Compute the Euclidean norm of each tensor."""
    return list(_torch._foreach_norm(values))


def multiply_each(values: list[Tensor], factors: list[Tensor]) -> None:
    """Multiply each tensor by a scalar tensor, in place."""
    _torch._foreach_mul_(values, factors)


def take_from_each(values: list[Tensor], others: list[Tensor]) -> None:
    """Subtract a list of tensors from another in place."""
    _torch._foreach_sub_(values, others)
