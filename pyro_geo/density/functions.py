"""Whether two function objects compute the same, for functions stored by key."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["in_words", "same_function"]

_DEPTH = 8  # of closures within closures; deeper than any that we write


def same_function(first: Any, second: Any) -> bool:
    """Tell whether two functions come from the same code and hold equal values.

    A lambda is a new object each time its line runs. Two such objects compute the
    same where their code is one object and everything they refer to from outside,
    defaults and closures, is equal; functions and plain objects in there are
    compared by the same rule.

    Args:
        first: any callable.
        second: any callable.

    Returns:
        Whether one can replace the other. A False may be wrong, where a closure holds
        an object that cannot be compared; a True is right as long as globals do not
        change.

    Example:
        >>> def times(factor):
        ...     return lambda x: factor * x
        >>> same_function(times(2), times(2)), same_function(times(2), times(3))
        (True, False)
    """
    return _same(first, second, _DEPTH)


def _same(a: Any, b: Any, depth: int) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or depth == 0:
        return False
    if isinstance(a, types.FunctionType):
        return a.__code__ is b.__code__ and _all_same(_held(a), _held(b), depth)
    if isinstance(a, types.MethodType):
        return a.__func__ is b.__func__ and _same(a.__self__, b.__self__, depth - 1)
    if isinstance(a, functools.partial):
        return _all_same(
            (a.func, a.args, a.keywords), (b.func, b.args, b.keywords), depth
        )
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return _all_same(a, b, depth)
    if isinstance(a, dict):
        return a.keys() == b.keys() and _all_same(
            [*a.values()], [b[key] for key in a], depth
        )
    if type(a).__eq__ is not object.__eq__:
        equal = a == b
        return equal if isinstance(equal, bool) else False
    # a plain object is compared by its attributes
    return hasattr(a, "__dict__") and _same(vars(a), vars(b), depth - 1)


def _all_same(first: Any, second: Any, depth: int) -> bool:
    return len(first) == len(second) and all(
        _same(a, b, depth - 1) for a, b in zip(first, second, strict=True)
    )


def _held(fn: types.FunctionType) -> tuple[Any, ...]:
    """Everything that a function object holds beside its code."""
    cells = fn.__closure__ or ()
    contents = []
    for cell in cells:
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # a name that is assigned later, or never
            contents.append(cell)
    return (fn.__defaults__, fn.__kwdefaults__, *contents)


def in_words(fn: Callable[..., Any]) -> str:
    """Name a function and where it is defined."""
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", type(inner).__name__)
    code = getattr(inner, "__code__", None)
    return name if code is None else f"{name}, {code.co_filename}:{code.co_firstlineno}"
