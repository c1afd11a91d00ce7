"""The arguments of a model, apart from the tensors among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check
from pyro_geo.density.protocol import Data
from pyro_geo.errors import ShapeError

__all__ = ["Arguments"]


class _TensorPlace:
    """Marks the place of a tensor among the arguments of a model."""

    def __repr__(self) -> str:
        return "tensor"

    @classmethod
    def of(cls, leaf: Any) -> Any:
        return cls() if isinstance(leaf, Tensor) else leaf


class Arguments:
    """Positional and keyword arguments whose tensors can be replaced.

    Args:
        args: positional arguments, trees of tensors and other objects.
        kwargs: keyword arguments.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # a tree and not its specification, which warns when it is unpickled
        self._template = pytree.tree_map(_TensorPlace.of, _ordered(args, kwargs))

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Data:
        """Take the tensors out of new arguments; the others must be the old ones.

        Raises :class:`~pyro_geo.errors.ConfigurationError` where an argument
        that is no tensor differs.

        Args:
            args: new positional arguments.
            kwargs: new keyword arguments.

        Returns:
            The tensors in the order of the arguments.

        Raises:
            ShapeError: the arguments have another structure.
        """
        arguments = _ordered(args, kwargs)
        old_leaves, old_tree = pytree.tree_flatten(self._template)
        leaves, tree = pytree.tree_flatten(arguments)
        kinds = [isinstance(x, Tensor) for x in leaves]
        if tree != old_tree or kinds != [
            isinstance(x, _TensorPlace) for x in old_leaves
        ]:
            raise ShapeError(
                "new arguments have another structure than the old ones",
                where="arguments of with_data",
                found=str(pytree.tree_map(_TensorPlace.of, arguments)),
                expected=str(self._template),
                todo="Pass them in the way they were passed to from_model.",
            )
        for old, new in zip(old_leaves, leaves, strict=True):
            same = isinstance(new, Tensor) or _same(old, new)
            expected = f"{repr(old)[:100]}, as only tensors can be replaced"
            check(same, "with_data", repr(new)[:100], expected)
        return tuple(x for x in leaves if isinstance(x, Tensor))

    def at(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with these tensors in their places."""
        tensors = iter(data)
        return pytree.tree_map(
            lambda leaf: next(tensors) if isinstance(leaf, _TensorPlace) else leaf,
            self._template,
        )


def _ordered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (args, dict(sorted(kwargs.items())))


def _same(old: Any, new: Any) -> bool:
    return old is new or (type(old) is type(new) and bool(np.all(old == new)))
