"""One floating type for a density, whatever types its data and its model have.

What NumPy hands out is float64, a network is float32, and torch refuses to multiply the
two. Wherever a model brings floating tensors of several types together, they are cast
to the type of the run first. Operands of one type are left alone, so that a model can
still compute a part of it in another precision; but half precision is always cast up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_geo.errors import UnsupportedError

__all__ = ["as_type", "run_dtype", "unified"]

_HALF = (torch.float16, torch.bfloat16)

# These do not compute: they show a tensor itself, or another view of its memory.
_PLACES = frozenset(
    "__get__ __set__ __getitem__ adjoint as_strided broadcast_to chunk contiguous"
    " detach diagonal expand expand_as flatten moveaxis movedim narrow permute ravel"
    " reshape reshape_as select split squeeze swapaxes swapdims t tensor_split"
    " transpose unbind unflatten unfold unsqueeze view view_as".split()
)

# In these, a tensor says which type the result shall have, or only its place counts.
_EXEMPT: set[Callable[..., Any]] = {
    torch.Tensor.to,
    torch.Tensor.type,
    torch.Tensor.type_as,
    torch.Tensor.new_tensor,
    torch.Tensor.backward,
    torch.autograd.grad,
    torch.autograd.backward,
    torch.result_type,
}


def run_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Return the floating type of a density, torch's default if None.

    Args:
        dtype: the type asked for.

    Returns:
        Single or double precision.

    Raises:
        UnsupportedError: any other type. In half precision a log-density of a hundred
            nats is rounded to a sixteenth of one.
    """
    found = dtype or torch.get_default_dtype()
    if found in (torch.float32, torch.float64):
        return found
    half = found in _HALF
    todo = "Pass dtype=torch.float32"
    if dtype is None:
        todo = "Call torch.set_default_dtype(torch.float32) or pass dtype=torch.float32"
    raise UnsupportedError(
        "a log-density in half precision is rounded too much to be sampled"
        if half
        else "a log-density is a real number",
        where="torch's default dtype" if dtype is None else "argument dtype",
        found=found,
        expected="torch.float32 or torch.float64",
        todo=f"{todo}; data in half precision are cast to it." if half else f"{todo}.",
    )


def as_type(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a floating tensor; leave integers, booleans and complex numbers alone."""
    return value.to(dtype) if value.is_floating_point() else value


def unified(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cast operands of several floating types, or in half precision, to one type.

    Args:
        func: function of torch.
        args: its arguments.
        kwargs: its keyword arguments.
        dtype: type of the run. What an operation in place writes into keeps its own
            type, and the other operands are cast to that one.

    Returns:
        The arguments of `func`, themselves where nothing is cast.
    """
    types: set[torch.dtype] = set()
    _collect(args, types)
    if kwargs:
        _collect(kwargs.values(), types)
    if len(types) < 2 and types.isdisjoint(_HALF):
        return args, kwargs
    name = getattr(func, "__name__", "")
    if func in _EXEMPT or name in _PLACES:
        return args, kwargs
    into = args[0] if args else None
    writes = name == "__setitem__" or name.endswith("_")
    if writes and isinstance(into, Tensor) and into.is_floating_point():
        dtype = into.dtype
    out = {"out": kwargs["out"]} if "out" in kwargs else {}
    args = tuple([_cast(x, dtype) for x in args])
    return args, {k: _cast(x, dtype) for k, x in kwargs.items()} | out


def _collect(values: Iterable[Any], types: set[torch.dtype]) -> None:
    """Add the floating types among values, and in tuples and lists of them."""
    for x in values:
        if isinstance(x, Tensor):
            if x.is_floating_point():
                types.add(x.dtype)
        elif isinstance(x, (tuple, list)):
            _collect(x, types)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, Tensor):
        return as_type(x, dtype)
    if type(x) in (tuple, list):
        return type(x)([_cast(part, dtype) for part in x])
    return x
