"""Checks of arguments, made before anything is computed.

Each refuses a bad argument with a :class:`~pyro_geo.errors.ConfigurationError` that
names the argument, what was passed and what is expected; a wrong shape is a
:class:`~pyro_geo.errors.ShapeError`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from pyro_geo._pyro_words import words_for
from pyro_geo.errors import ConfigurationError, PyroGeoError, ShapeError

__all__ = [
    "check",
    "check_choice",
    "check_count",
    "check_number",
    "check_seed",
    "check_shape",
    "handled_types",
    "known_options",
    "reading_numbers",
    "shown_options",
    "shown_value",
]

_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def check(
    good: bool,
    name: str,
    found: object,
    expected: object,
    *,
    error: type[PyroGeoError] = ConfigurationError,
) -> None:
    """Refuse an argument.

    Args:
        good: whether it is good.
        name: of the argument.
        found: its value.
        expected: what it should be.
        error: class of the exception, for a mistake that users catch separately.

    Example:
        >>> check(3 > 0, "num_chains", 3, "at least 1")
    """
    if not good:
        raise error(
            "option out of range",
            where=f"argument {name}",
            found=found,
            expected=expected,
            todo="Pass such a value.",
        )


def check_count(name: str, value: int | None, least: int = 1) -> None:
    """Refuse a count that is too small, or is no integer.

    Args:
        name: of the argument.
        value: of the argument; None, for an option left out, is good.
        least: smallest that is allowed.

    Example:
        >>> check_count("num_chains", 4)
    """
    # True is an integer to Python, and a slip to whoever wrote it
    integer = isinstance(value, int) and not isinstance(value, bool)
    good = value is None or (integer and value >= least)
    check(good, name, repr(value), f"an integer of at least {least}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is not among the choices.

    Args:
        name: of the argument.
        value: of the argument.
        choices: what it may be.

    Example:
        >>> check_choice("metric", "dense", ("diagonal", "dense"))
    """
    good = any(value is choice or value == choice for choice in choices)
    check(good, name, repr(value), " or ".join(map(repr, choices)))


def check_seed(seed: int | None) -> None:
    """Refuse a seed that is no integer.

    Args:
        seed: of the argument; None, for one from torch's generator, is good.

    Example:
        >>> check_seed(1)
    """
    good = True
    try:  # integers of NumPy and torch are integers too
        operator.index(0 if seed is None else seed)
    except TypeError:
        good = False
    check(good, "seed", repr(seed), "an integer")


@contextmanager
def reading_numbers(
    name: str, value: object, error: type[ShapeError] = ShapeError
) -> Iterator[None]:
    """Name the argument where what is no tensor cannot be made one.

    Args:
        name: of the argument.
        value: of the argument.
        error: class of the error, for a text or a ragged list, say.

    Example:
        >>> with reading_numbers("reward", "0.9"):
        ...     float("reward")
        Traceback (most recent call last):
            ...
        pyro_geo.errors.ShapeError: this is no tensor of numbers (argument reward)...
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError):
        raise error(
            "this is no tensor of numbers",
            where=f"argument {name}",
            found=repr(value)[:100],
            expected="a number, a list of numbers, an array or a tensor",
            todo="Pass torch.tensor(...) of it.",
        ) from None


def check_shape(
    name: str,
    found: Sequence[int],
    expected: Sequence[int] | str,
    good: bool | None = None,
) -> None:
    """Refuse a tensor of the wrong shape.

    Args:
        name: of the argument.
        found: its shape.
        expected: the shape it should have, as numbers or in words.
        good: whether it fits; None to compare it with `expected`.

    Raises:
        ShapeError: it does not fit.

    Example:
        >>> check_shape("q", (4, 2), (4, 2))
        >>> check_shape("losses", (100,), "(n,)", good=True)
    """
    if good is None:
        good = tuple(found) == tuple(expected)
    if not good:
        raise ShapeError(
            "wrong shape",
            where=f"argument {name}",
            found=tuple(found),
            expected=expected if isinstance(expected, str) else tuple(expected),
            todo="Pass a tensor of that shape.",
        )


def check_number(
    name: str,
    value: float | None,
    low: float = 0.0,
    high: float = math.inf,
    *,
    strict: bool = False,
    integer: bool = False,
) -> None:
    """Refuse a number outside its range, or one that is not finite.

    Args:
        name: of the argument.
        value: of the argument; None, for an option left out, is good.
        low: least value allowed.
        high: upper limit, itself not allowed.
        strict: whether `low` itself is forbidden too.
        integer: whether fractions are forbidden.

    Example:
        >>> check_number("friction", 0.1)
    """
    if value is None:
        return
    above = "above" if strict else "at least"
    below = f" and below {high:g}" if math.isfinite(high) else " and finite"
    kind = "an integer, " if integer else ""
    try:
        good = (low < value if strict else low <= value) and value < high
        good = good and (not integer or int(value) == value)
    except (TypeError, ValueError):  # a text, say, or several numbers
        good = False
    check(bool(good), name, repr(value), f"{kind}{above} {low:g}{below}")


def known_options(
    init: Callable[Parameters, Returned],
) -> Callable[Parameters, Returned]:
    """Refuse an option that a constructor does not have, and say what to type.

    An option of Pyro's is answered with ours, another one with the nearest name. The
    options that were given are kept for :func:`shown_options`.

    Args:
        init: a method `__init__` with its options as keywords.

    Returns:
        The method, with the same signature. An unknown option is a
        :class:`~pyro_geo.errors.ConfigurationError`, and so is a value by position
        too many.

    Example:
        >>> import torch
        >>> class HMC:
        ...     @known_options
        ...     def __init__(self, model, *, target_accept_prob=0.8): ...
        >>> HMC(None, target_accept=0.9)
        Traceback (most recent call last):
        ...
        pyro_geo.errors.ConfigurationError: HMC(...) has no option 'target_accept'; did
        you mean 'target_accept_prob'?
    """
    parameters = inspect.signature(init).parameters
    names = list(parameters)[1:]
    ordered = [n for n in names if parameters[n].kind not in _BY_NAME]

    @functools.wraps(init)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        for option in kwargs:
            if option not in names:
                near = difflib.get_close_matches(option, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"among {names}"
                owner = type(args[0])
                hint = words_for(owner, option) or hint
                raise ConfigurationError(
                    f"{owner.__name__}(...) has no option {option!r}; {hint}"
                )
        if len(args) - 1 > len(ordered):
            raise ConfigurationError(
                f"{type(args[0]).__name__}(...) takes {', '.join(ordered)} by "
                f"position, not {len(args) - 1} values; give the others by name"
            )
        result = init(*args, **kwargs)
        given = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        vars(args[0])["given_options"] = {
            name: given[name] for name in names if name in given
        }
        return result

    return checked


def handled_types(function: Any) -> list[str]:
    """Name the classes that a `functools.singledispatch` function has a case for.

    Args:
        function: whose case for any object refuses it.

    Returns:
        Names in alphabetical order, for its message.

    Example:
        >>> @functools.singledispatch
        ... def area(shape): ...
        >>> @area.register
        ... def _(shape: float): ...
        >>> handled_types(area)
        ['float']
    """
    return sorted({cls.__name__ for cls in function.registry} - {"object"})


def shown_options(owner: object, left_out: Sequence[str] = ()) -> list[str]:
    """Show the options that an object was made with, for its representation.

    Args:
        owner: an object whose `__init__` has :func:`known_options`.
        left_out: options that are not shown.

    Returns:
        `name=value` for each option; tensors by their shape and functions by name.

    Example:
        >>> import torch
        >>> class HMC:
        ...     @known_options
        ...     def __init__(self, model, *, start=None): ...
        >>> shown_options(HMC(None, start=torch.zeros(3)), ["model"])
        ['start=tensor of (3,)']
    """
    given = vars(owner).get("given_options", {})
    return [
        f"{name}={shown_value(value)}"
        for name, value in given.items()
        if name not in left_out
    ]


def shown_value(value: object) -> str:
    """Show one option in a line.

    Args:
        value: anything.

    Returns:
        Its representation; tensors by their shape and functions by name.

    Example:
        >>> import torch
        >>> shown_value(torch.zeros(3)), shown_value(len), shown_value("a")
        ('tensor of (3,)', 'len', "'a'")
    """
    import torch  # not above: the readers of stores do without it

    if isinstance(value, torch.Tensor):
        return f"tensor of {tuple(value.shape)}"
    if isinstance(value, dict):
        inside = ", ".join(
            f"{key!r}: {shown_value(item)}" for key, item in value.items()
        )
        return f"{{{inside}}}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value)
    # one with an address tells nothing else, and arrays and tables take several lines
    return type(value).__name__ if " at 0x" in text or "\n" in text else text
