"""What a function brings along beside its arguments: closures, globals, parameters."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.infer.gibbs.rows import (
    Examples,
    flat_columns,
    standard_columns,
    table_keys,
)

__all__ = ["Brought", "brought_by", "knows", "parameters_of"]

_DEPTH = 8
_MOST = 20_000  # objects that are looked into
_SHORTEST = 16  # entries of a piece of a column that is taken for more than chance
_LIBRARIES = ("torch", "pyro", "pyro_geo", "numpy")


class Brought(NamedTuple):
    """What some functions bring along.

    Attributes:
        tensors: by a name that a user can find.
        numbers: likewise.
        results: objects that hold a density with its data, such as a posterior.
        complete: whether everything was looked into.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, float]
    results: dict[str, Any]
    complete: bool


def brought_by(**functions: Callable[..., Any]) -> Brought:
    """Collect the tensors that functions refer to without being passed them.

    Args:
        **functions: by name.

    Returns:
        Tensors of closures, globals, defaults, attributes, buffers and parameters.
    """
    walk = _Walk()
    for name, function in functions.items():
        walk.visit(function, name, 0)
    return Brought(walk.tensors, walk.numbers, walk.results, walk.left > 0)


class _Walk:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self.seen: dict[int, Any] = {}  # kept, so that no address is used again
        self.left = _MOST

    def visit(self, value: Any, name: str, depth: int) -> None:
        if isinstance(value, (bool, int, float)):
            self.numbers[name] = value  # small numbers are one object everywhere
            return
        if id(value) in self.seen or self.left <= 0:
            return
        self.seen[id(value)] = value
        self.left -= 1
        if (table := _as_tensor(value)) is not None:
            self.tensors[name] = table
            return
        if hasattr(getattr(value, "target", None), "data"):
            self.results[name] = value
            return
        if depth >= _DEPTH or isinstance(value, (str, bytes, types.ModuleType)):
            return
        if isinstance(value, type) and _of_library(value.__module__):
            return
        for part, inside in _parts(value):
            label = f"{name}.{part}" if part else name
            self.visit(inside, label, depth + 1)


def _as_tensor(value: Any) -> Tensor | None:
    """Take tensors, arrays, and lists of numbers for tensors."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.as_tensor(np.array(value))
    if isinstance(value, (list, tuple)) and 1 < len(value) <= _MOST:
        return _of_list(value)
    if type(value).__module__.split(".")[0] in ("pandas", "xarray"):
        array = np.asarray(value)
        return torch.as_tensor(np.array(array)) if array.dtype.kind in "biuf" else None
    return None


def _of_list(value: Sequence[Any]) -> Tensor | None:
    """Numbers, rows of numbers, or tensors of one shape."""
    first = value[0]
    if isinstance(first, Tensor):
        shapes = {x.shape if isinstance(x, Tensor) else None for x in value}
        same = len(shapes) == 1
        return torch.stack([x.detach().cpu() for x in value]) if same else None
    if not isinstance(first, (bool, int, float, list, tuple, np.ndarray, np.generic)):
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # texts, or rows of many lengths
        return None
    return torch.from_numpy(array) if array.size > 1 else None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield "values", list(value.values())  # numbers of a table, together
        yield from ((repr(key)[:40], item) for key, item in value.items())
    elif isinstance(value, type):
        yield from ((k, v) for k, v in vars(value).items() if not k.startswith("__"))
        yield "", vars(value).get("__call__")
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((str(i), item) for i, item in enumerate(value))
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"args[{i}]", item) for i, item in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, torch.nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
        yield from value.named_children()
        yield from _attributes(value)
    else:
        yield from _attributes(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from _cells(function)
    yield from (("default", item) for item in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    yield "", getattr(function, "__wrapped__", None)
    if not _of_library(function.__module__):
        yield from _attributes(function)
        names = set(_names(function.__code__))
        for name in sorted(names & set(function.__globals__)):
            value = function.__globals__[name]
            yield name, value
            if isinstance(value, types.ModuleType) and not _of_library(value.__name__):
                for inside in sorted(set(_inner_names(function.__code__))):
                    yield f"{name}.{inside}", getattr(value, inside, None)


def _cells(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function looks up, in functions inside it too."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _inner_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _inner_names(constant)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds; of those of libraries, handlers of Pyro's alone."""
    module = type(value).__module__
    handler = module.startswith(("pyro.poutine", "pyro.nn", "pyro.contrib"))
    if _of_library(module) and not handler and not isinstance(value, _OPENED):
        return
    for name, item in list(getattr(value, "__dict__", {}).items()):
        bare = isinstance(value, torch.nn.Module) and name in _OF_MODULES
        if not bare and name != "__wrapped__":
            yield name, item
    if not isinstance(value, types.FunctionType) and not _of_library(module):
        yield "", type(value)


_OPENED = (types.FunctionType, torch.nn.Module)
_OF_MODULES = frozenset(vars(torch.nn.Module()))  # tables of parameters and the like


@functools.cache
def _of_library(module: str | None) -> bool:
    """Whether a module was installed, and is not the user's."""
    root = (module or "").split(".")[0]
    if root in _LIBRARIES or root in sys.stdlib_module_names:
        return root != "__main__"
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" in file


def parameters_of(
    model: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[str, ...]:
    """Name the `pyro.param` statements of a model."""
    with torch.no_grad():
        nodes: Any = poutine.trace(model).get_trace(*arguments).nodes
    return tuple(name for name, site in nodes.items() if site["type"] == "param")


def knows(table: Tensor, examples: Examples) -> str | None:
    """Say which part of the examples a tensor holds, None where none is found.

    Args:
        table: any tensor.
        examples: data.

    Returns:
        In words, for a message.
    """
    if table.dim() == 0 or table.numel() < 2 or table.is_sparse:
        return None
    named = [("the inputs", examples.args), ("the targets", examples.targets)]
    for what, tree in named:
        for leaf in pytree.tree_leaves(tree):
            # targets are told in any units; inputs may be a grid that others use too
            units = what == "the targets"
            if examples.is_row_table(leaf) and (found := _holds(table, leaf, units)):
                return f"{found} of {what}"
    return None


def _holds(table: Tensor, leaf: Tensor, units: bool) -> str | None:
    """Compare rows, columns and pieces of columns, along every axis of the table."""
    n = len(leaf)
    wide = leaf.reshape(n, -1).shape[1] > 1
    for axis in range(table.dim()):
        rows = table.movedim(axis, 0).reshape(table.shape[axis], -1)
        if wide and rows.shape[1] == leaf.reshape(n, -1).shape[1]:
            shared = _shared(rows, leaf.reshape(n, -1))
            if shared:
                return f"{shared} rows"
        if _has_column(rows, leaf, units):
            return "a column"
    return None


def _shared(rows: Tensor, leaf: Tensor) -> int:
    """Count rows in common, where they are too many or too special for chance."""
    keys = {tuple(key): i for i, key in enumerate(table_keys(leaf).tolist())}
    common = [keys[k] for k in map(tuple, table_keys(rows).tolist()) if k in keys]
    # one row of many different numbers is enough; zeros and ones repeat by chance
    special = any(len(leaf[i].unique()) > 3 for i in common[:10])
    return len(common) if special or len(common) > max(1, 0.1 * len(keys)) else 0


def _has_column(rows: Tensor, leaf: Tensor, units: bool) -> bool:
    """Whether a column, or a long piece of one, is one of the data."""
    n, size = len(leaf), len(rows)
    short, long = (leaf, rows) if n <= size else (rows, leaf)
    length = len(short)
    if length < _SHORTEST or len(long) > 4 * length or rows.shape[1] * size > 1 << 22:
        return False
    mine, work = standard_columns(short), 0
    for start in range(len(long) - length + 1):
        piece = long[start : start + length]
        match = (mine.mT @ standard_columns(piece)).abs() > 1 - 1e-12
        if units and bool(match.any()):
            return True
        for i, j in match.nonzero()[:10].tolist():
            pair = flat_columns(short)[:, i], flat_columns(piece)[:, j]
            if torch.equal(*pair):
                return True
        work += match.numel() * length
        if work > 1 << 26:
            break
    return False
