"""Values as JSON that equal values share, functions by code and by what they hold."""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import json
import math
import os
import re
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyro_geo

__all__ = ["describe", "digest_of", "tensors_in"]

_DEPTH = 40  # of objects within objects
_LIBRARIES = tuple(
    {
        os.path.realpath(path) + os.sep
        for path in (
            *(sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib")),
            sysconfig.get_path("platlib"),
            os.path.dirname(os.path.dirname(torch.__file__)),
            os.path.dirname(pyro_geo.__file__),
        )
        if path
    }
)
_DIGEST = re.compile(r"[\w ]+ \([\d, ]*\) [0-9a-f]{32}")  # of a tensor
_SETS = (set, frozenset)
_OPAQUE = (
    types.ModuleType,
    weakref.ref,
    types.GeneratorType,
    torch.Generator,
    np.random.Generator,
)


def describe(value: Any) -> Any:
    """Describe any value as JSON.

    A function is described by its instructions, defaults, closure and the globals that
    it reads; an object by its class and its state; what belongs to a library, by its
    name. Addresses, line numbers, file names, comments and docstrings do not count.

    Args:
        value: numbers, texts, tensors, containers, functions, objects.

    Returns:
        A description that equal values share, in other processes too.

    Example:
        >>> def times(factor):
        ...     return lambda x: factor * x
        >>> describe(times(2)) == describe(times(2)), describe(times(3))["closure"]
        (True, {'factor': 3})
    """
    return _Describer().of(value)


def digest_of(description: Any) -> str:
    """Shorten a description to a few characters.

    Args:
        description: made by :func:`describe`.

    Returns:
        Its digest.
    """
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tensors_in(description: Any) -> dict[str, str]:
    """Find the tensors and arrays in a description.

    Args:
        description: made by :func:`describe`.

    Returns:
        Path to digest; parameters of modules are left out.
    """
    found: dict[str, str] = {}
    _find_tensors(description, "", found)
    return found


class _Describer:
    """One description under way: each object is described once, the first time."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, int]] = {}  # kept alive: ids are used again
        self._around: set[int] = set()
        self._depth = 0

    def of(self, value: Any) -> Any:
        plain = _plain(value)
        if plain is not None or value is None:
            return plain
        if self._depth == _DEPTH:
            return {"type": _name(type(value))}
        self._depth += 1
        try:
            return self._compound(value)
        finally:
            self._depth -= 1

    def _compound(self, value: Any) -> Any:
        if isinstance(value, (Mapping, list, tuple, range, set, frozenset)):
            return self._container(value)
        if isinstance(value, _OPAQUE):
            return {"type": _name(type(value))}
        if id(value) in self._seen:
            return {"again": self._seen[id(value)][1]}
        self._seen[id(value)] = value, len(self._seen)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return {"method": self.of(value.__func__), "self": self.of(value.__self__)}
        if isinstance(value, functools.partial):
            return [self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if hasattr(value, "__array__"):
            return _plain(np.asarray(value))
        if callable(wrapped := getattr(value, "__wrapped__", None)):
            return {"wrapped": self.of(wrapped)}
        if getattr(value, "__qualname__", None):
            return _name(value)
        return self._object(value)

    def _container(self, value: Any) -> Any:
        if id(value) in self._around:
            return "a container around this"
        self._around.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {str(key): self.of(item) for key, item in value.items()}
            items = [self.of(item) for item in value]
        finally:
            self._around.discard(id(value))
        # sets have another order in each process
        return sorted(items, key=json.dumps) if isinstance(value, _SETS) else items

    # -- functions --------------------------------------------------------------------

    def _function(self, fn: types.FunctionType) -> dict[str, Any]:
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
        parts: dict[str, Any] = {
            "closure": {name: self._cell(cell) for name, cell in cells}
        }
        if _is_library(fn.__code__.co_filename):
            home = fn.__globals__.get("__name__")
            return {"function": f"{home}.{fn.__code__.co_qualname}", **parts}
        parts["code"] = digest_of(self._code(fn.__code__))
        parts["defaults"] = self.of([fn.__defaults__, fn.__kwdefaults__])
        parts["globals"] = {
            name: self.of(value) for name, value in _globals_read(fn) if value is not fn
        }
        return parts

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # not filled yet
            return "empty"

    def _code(self, code: types.CodeType) -> list[Any]:
        """Instructions with the values they name, not with their places in a table."""
        signature = [
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & 0xFFF,  # later ones say whether there is a docstring
            list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]),
        ]
        steps = []
        for step in dis.get_instructions(code):
            value = step.argval
            if isinstance(value, types.CodeType):
                value = self._code(value)
            elif step.opname in ("LOAD_CONST", "RETURN_CONST", "KW_NAMES"):
                value = [type(value).__name__, _Describer().of(value)]
            else:
                value = str(value) if step.arg is not None else None
            steps.append([step.opname, value])
        return [signature, steps, code.co_exceptiontable.hex()]

    # -- objects ----------------------------------------------------------------------

    def _class(self, kind: type) -> Any:
        if _is_library_class(kind):
            return _name(kind)
        members = {}
        for name, member in sorted(vars(kind).items()):
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            elif isinstance(member, property):
                member = [member.fget, member.fset]
            elif isinstance(member, functools.cached_property):
                member = member.func
            elif name.startswith("__") and not isinstance(member, types.FunctionType):
                continue
            members[name] = self.of(member)
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        return {"class": kind.__name__, "bases": bases, "members": members}

    def _module(self, module: torch.nn.Module) -> dict[str, Any]:
        parts = {}
        for name, part in module.named_modules():
            state = {
                key: value
                for key, value in vars(part).items()
                if not key.startswith("_") and _is_data(value)
            }
            parts[name] = {"class": self.of(type(part)), "state": self.of(state)}
        parameters = {n: self.of(x) for n, x in module.named_parameters()}
        buffers = {n: self.of(x) for n, x in module.named_buffers()}
        return {"parts": parts, "parameters": parameters, "buffers": buffers}

    def _object(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            state = {name: getattr(value, name) for name in fields}
        else:
            state = dict(getattr(value, "__dict__", {}))
            slots = (s for k in kind.__mro__ for s in getattr(k, "__slots__", ()))
            state |= {s: getattr(value, s) for s in slots if hasattr(value, s)}
        if _is_library_class(kind):
            # what is private there may be a cache
            kept = {n: self.of(x) for n, x in state.items() if not n.startswith("_")}
            named = {} if dataclasses.is_dataclass(value) else {"type": _name(kind)}
            return {**named, **kept}
        return {"type": self.of(kind), "state": self.of(state)}


def _plain(value: Any) -> Any:
    """A description of numbers, texts, tensors and the like; None for others."""
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (complex, bytes, slice, torch.dtype, torch.device)):
        return str(value)
    if value is Ellipsis:
        return "..."
    if isinstance(value, Tensor):
        return _tensor(value.detach())
    if isinstance(value, np.generic):
        return value.item() if value.dtype.kind in "biu" else _array(np.asarray(value))
    if isinstance(value, np.ndarray):
        return _array(value)
    return None


def _tensor(value: Tensor) -> str:
    if value.layout != torch.strided:
        value = value.to_dense()
    value = value.cpu().resolve_conj().resolve_neg().contiguous()
    if value.dtype == torch.bfloat16:  # NumPy has no such type
        numbers = value.view(torch.int16).numpy()
        return f"bfloat16 {_array(numbers)}"
    return _array(value.numpy())


def _array(value: np.ndarray) -> str:
    if value.dtype.hasobject:
        content = json.dumps(describe(value.tolist())).encode()
    else:
        content = np.ascontiguousarray(value).tobytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{value.dtype} {value.shape} {digest[:32]}"


def _is_data(value: Any) -> bool:
    return value is None or isinstance(value, (Tensor, bool, int, float, str, tuple))


def _globals_read(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals that a function reads by name, parts of the user's modules included."""
    found: dict[str, Any] = {}
    pending = [fn.__code__]
    while pending:
        code = pending.pop()
        pending += [x for x in code.co_consts if isinstance(x, types.CodeType)]
        steps = list(dis.get_instructions(code))
        for place, step in enumerate(steps):
            name = step.argval
            if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                continue
            if name not in fn.__globals__:
                continue  # a builtin, which the instruction names
            value = fn.__globals__[name]
            for following in steps[place + 1 :]:
                if not isinstance(value, types.ModuleType) or _is_library(
                    getattr(value, "__file__", None)
                ):
                    break
                if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                name = f"{name}.{following.argval}"
                value = getattr(value, following.argval, None)
            found[name] = value
    yield from sorted(found.items())


def _is_library(file: str | None) -> bool:
    """Whether code is installed or built in; code of the user's is a file elsewhere."""
    if file is None or file.startswith("<frozen"):
        return True
    if file.startswith("<"):  # typed in, or a cell of a notebook
        return False
    return os.path.realpath(file).startswith(_LIBRARIES)


def _is_library_class(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or module is None:
        return False
    return _is_library(getattr(module, "__file__", None))


def _name(value: Any) -> str:
    home = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return name if home in (None, "builtins") else f"{home}.{name}"


def _find_tensors(description: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(description, dict):
        for name, part in description.items():
            if name != "parameters":
                _find_tensors(part, f"{path}.{name}" if path else name, found)
    elif isinstance(description, list):
        for number, part in enumerate(description):
            _find_tensors(part, f"{path}[{number}]", found)
    elif isinstance(description, str) and _DIGEST.fullmatch(description):
        found[path] = description
