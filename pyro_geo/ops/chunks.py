"""Batched functions of very many rows, evaluated as many rows at once as fit.

:func:`map_chunks` may call the function with a shorter last chunk. Where the number of
rows changes the last digits, and these count, use
:func:`~pyro_geo.ops.lanes.map_lanes`, which fills the last chunk up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_geo._compat.torch import TorchDispatchMode, pytree

__all__ = ["Sites", "map_chunks", "rows_that_fit"]

Sites = dict[str, Tensor]
"""Values by name of the site, or of any other quantity."""

Outputs = TypeVar("Outputs")

_MOST_ROWS = 4096  # beyond this, more rows at once save no more time
_NUMBERS = 1 << 21  # in the largest tensor of a chunk: 16 MB in float64


class _Largest(TorchDispatchMode):
    """Remember how many numbers the largest new tensor holds."""

    numbers = 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count its new numbers; views take no memory."""
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.numbers = max(self.numbers, leaf.numel())
        return result


def rows_that_fit(run: Callable[[], object]) -> int:
    """Find how many rows may be evaluated at once, from an evaluation of one.

    Args:
        run: evaluates the function at a single row.

    Returns:
        The number of rows whose largest tensor holds at most 2 million numbers, between
        1 and 4096.

    Example:
        >>> rows_that_fit(lambda: torch.ones(1, 1 << 20) + 1)
        2
    """
    return _evaluate_and_count(run)[1]


def _evaluate_and_count(run: Callable[[], Outputs]) -> tuple[Outputs, int]:
    with _Largest() as largest:
        result = run()
    return result, max(1, min(_MOST_ROWS, _NUMBERS // largest.numbers))


def map_chunks(
    fn: Callable[[Tensor], Outputs], rows: Tensor, size: int | None = None
) -> Outputs:
    """Apply a batched function to any number of rows, some of them at a time.

    Gradients are tracked only where the rows ask for them.

    Args:
        fn: function of `(chunk, *shape)` to a tree of tensors with leading axis
            `chunk`, whose rows are independent.
        rows: all rows, `(n, *shape)`.
        size: rows in one chunk; as many as fit if None, see :func:`rows_that_fit`.

    Returns:
        The tree, its tensors with leading axis `n`.

    Example:
        >>> map_chunks(lambda x: {"twice": 2 * x}, torch.arange(5), 2)
        {'twice': tensor([0, 2, 4, 6, 8])}
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and rows.requires_grad):
        if size is None:
            first, size = _evaluate_and_count(lambda: fn(rows[:1]))
            if not pytree.tree_leaves(first):
                return first  # nothing comes out: there is nothing to run the rest for
        return _joined((fn(chunk) for chunk in rows.split(size)), len(rows))


def _joined(chunks: Iterable[Outputs], total: int) -> Outputs:
    """Join trees of chunks along their leading axis.

    Each chunk is copied to its place at once, so that no second copy of all of them
    lies in memory beside the result.

    Args:
        chunks: trees of tensors with a leading axis.
        total: length of that axis, all chunks together.

    Returns:
        The tree of the first chunk, its tensors with leading axis `total`.
    """
    joined: list[Tensor] = []
    start, spec = 0, None
    for chunk in chunks:
        leaves, structure = pytree.tree_flatten(chunk)
        if spec is None:
            spec = structure
            joined = [leaf.new_empty((total, *leaf.shape[1:])) for leaf in leaves]
        stop = start + len(leaves[0]) if leaves else start
        for result, leaf in zip(joined, leaves, strict=True):
            result[start:stop] = leaf
        start = stop
    assert spec is not None
    return pytree.tree_unflatten(joined, spec)
