"""Calls of the release before, which work for one release more and warn."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from pyro_geo.errors import ConfigurationError, PyroGeoDeprecationWarning

__all__ = ["moved", "positional", "renamed"]

_GONE_IN = "0.3"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def renamed(**new_names: str) -> Callable[[Decorated], Decorated]:
    """Take arguments under their old names too.

    On a class the fields can be read under their old names as well.

    Args:
        **new_names: old name to new name.

    Returns:
        A decorator that leaves the signature as it is. Both names in one call are a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> import pytest
        >>> @renamed(tol="tolerance")
        ... def solve(*, tolerance):
        ...     return tolerance
        >>> with pytest.warns(PyroGeoDeprecationWarning, match="expected tolerance"):
        ...     solve(tol=0.1)
        0.1
    """

    def decorate(function: Any) -> Any:
        if inspect.isclass(function):
            _rename_fields(function, new_names)
            return function

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            old = [name for name in new_names if name in kwargs]
            if old:
                new = [new_names[name] for name in old]
                _refuse_twice(function, [name for name in new if name in kwargs])
                _warn("argument with a new name", function, old, new)
                kwargs = {new_names.get(k, k): value for k, value in kwargs.items()}
            return function(*args, **kwargs)

        return call

    return decorate


def positional(*names: str) -> Callable[[Decorated], Decorated]:
    """Take arguments by position that are passed by name now.

    Args:
        *names: of the arguments, in the order that they had, after those that can
            still be given by position.

    Returns:
        A decorator that leaves the signature as it is. An argument given both ways is
        a :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> import pytest
        >>> @positional("seed")
        ... def draw(count, *, seed=0):
        ...     return count, seed
        >>> with pytest.warns(PyroGeoDeprecationWarning, match="expected seed="):
        ...     draw(2, 7)
        (2, 7)
    """

    def decorate(function: Any) -> Any:
        ordered = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
        count = sum(
            one.kind in ordered
            for one in inspect.signature(function).parameters.values()
        )

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            # where there are more still, the function itself refuses them
            if count < len(args) <= count + len(names):
                given = dict(zip(names, args[count:], strict=False))
                _refuse_twice(function, [name for name in given if name in kwargs])
                by_name = [f"{name}=" for name in given]
                _warn("argument by position", function, list(given), by_name)
                args, kwargs = args[:count], {**given, **kwargs}
            return function(*args, **kwargs)

        return call

    return decorate


def moved(old: str, new: str, names: Collection[str]) -> None:
    """Let a module that has moved be imported under its old name.

    No file has the old name: it may be that of a function of the same package.

    Args:
        old: name of the module before.
        new: its name now.
        names: what it exports.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        package = new.rpartition(".")[0]
        _warn("import from an old module", name, [old], [package])
        return getattr(import_module(new), name)

    module = ModuleType(old, f"The old name of {new}.")
    vars(module)["__getattr__"] = find
    sys.modules[old] = module


def _rename_fields(cls: Any, new_names: dict[str, str]) -> None:
    """Let the constructor take, and the object show, fields under their old names."""
    cls.__init__ = renamed(**new_names)(cls.__init__)
    for old, new in new_names.items():
        setattr(cls, old, property(functools.partial(_read, old=old, new=new)))


def _read(owner: Any, *, old: str, new: str) -> Any:
    """Read a field under its old name."""
    _warn("field with a new name", type(owner), [old], [new])
    return getattr(owner, new)


def _name(owner: Any) -> str:
    """Name a function or a class as a caller does."""
    return owner if isinstance(owner, str) else owner.__qualname__.split(".__init__")[0]


def _refuse_twice(owner: Any, names: list[str]) -> None:
    """Refuse arguments that are given in the old way and in the new one."""
    if names:
        raise ConfigurationError(
            "argument given twice",
            where=_name(owner),
            found=f"{', '.join(names)} in the old way and in the new one",
            expected="one of them",
            todo="Leave out the old one.",
        )


def _warn(what: str, owner: Any, old: list[str], new: list[str]) -> None:
    """Warn at the line outside of the library that made the call."""
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").split(".")[0] == "pyro_geo":
        level, frame = level + 1, frame.f_back
    warning = PyroGeoDeprecationWarning(
        what,
        where=_name(owner),
        found=", ".join(old),
        expected=", ".join(new),
        todo=f"Version {_GONE_IN} takes the new way alone.",
    )
    warnings.warn(warning, stacklevel=level)
