"""Functions of a draw evaluated at very many draws, as many at once as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_geo._compat.torch import TorchDispatchMode, pytree

__all__ = ["Sites", "collect", "in_chunks", "measured"]

Sites = dict[str, Tensor]

_LANES = 4096  # beyond this, more lanes at once save no more time
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
        """Run the operation and look at what it made; views hold nothing."""
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.numbers = max(self.numbers, leaf.numel())
        return result


def measured(run: Callable[[], Sites]) -> tuple[Sites, int]:
    """Run at one draw and see how many may go at once.

    Args:
        run: evaluation at one draw.

    Returns:
        What it gave, and the number of draws whose largest tensor stays small.
    """
    with _Largest() as largest:
        sites = run()
    return sites, max(1, min(_LANES, _NUMBERS // largest.numbers))


def collect(parts: Iterable[Sites], total: int) -> Sites:
    """Lay the chunks of each site one after another, in one tensor from the start.

    Args:
        parts: name to `(chunk, *shape)`, chunk after chunk.
        total: length of all chunks together.

    Returns:
        Name to `(total, *shape)`.
    """
    whole: Sites = {}
    start = 0
    for part in parts:
        stop = start
        for name, value in part.items():
            if name not in whole:
                whole[name] = value.new_empty((total, *value.shape[1:]))
            stop = start + len(value)
            whole[name][start:stop] = value
        start = stop
    return whole


def in_chunks(fn: Callable[[Tensor], Sites], q: Tensor) -> Sites:
    """Evaluate a batched function at many positions, as many at once as fit.

    Args:
        fn: positions `(chains, dim)` to name and `(chains, *shape)`.
        q: positions, `(draws, dim)`.

    Returns:
        Name to `(draws, *shape)`.
    """
    with torch.no_grad():
        first, size = measured(lambda: fn(q[:1]))
        # without any name there is nothing to run the rest for
        return collect((fn(part) for part in q.split(size)), len(q)) if first else {}
