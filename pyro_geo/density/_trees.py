"""Trees of tensors: tuples and named tuples, flattened and rebuilt.

Written out because a small compiled graph takes microseconds: torch's own trees would
cost as much again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyro_geo.errors import UnsupportedError

__all__ = ["FlatFunction", "Rebuild", "Tree", "flatten", "rebuilder"]

Tree = Any
"""A tensor, or a (named) tuple of trees."""

Rebuild = Callable[[list[Tensor]], Tree]
"""Puts reversed leaves back into a tree."""

FlatFunction = Callable[..., Sequence[Tensor]]
"""A function of the leaves of its inputs to the leaves of its output."""


def flatten(tree: Tree, into: list[Tensor]) -> None:
    """Append the leaves of a tree to a list, from left to right."""
    if isinstance(tree, Tensor):
        into.append(tree)
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            if isinstance(branch, Tensor):  # most are: a call less for each
                into.append(branch)
            else:
                flatten(branch, into)
    else:
        raise UnsupportedError(
            "cannot pass this through the ladder",
            where="an input or output of a lifted function",
            found=type(tree).__name__,
            expected="a tensor, or a (named) tuple of such trees",
            todo="Pass numbers as tensors and dictionaries as tuples.",
        )


def rebuilder(tree: Tree) -> Rebuild:
    """Make the function that puts a reversed list of leaves back in `tree`'s shape."""
    # Leaves come in reverse order because popping the last item of a list is cheap.
    if isinstance(tree, Tensor):
        return list.pop
    branches = [rebuilder(branch) for branch in tree]
    make = getattr(type(tree), "_make", tuple)  # of a named tuple, or else a tuple
    return lambda leaves: make([branch(leaves) for branch in branches])
