"""A broken filter: beliefs that are not those of the update asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["classic_as_unbounded"]

Beliefs = TypeVar("Beliefs")


def classic_as_unbounded(filter_fn: Callable[..., Beliefs]) -> Callable[..., Beliefs]:
    """Pass the classic volatility update off as the unbounded one.

    Where inputs surprise it overshoots or has no precision at all; elsewhere the two
    are alike, so that a look at quiet series shows nothing.

    Args:
        filter_fn: such as :func:`~pyro_geo.filtering.hgf_filter`.

    Returns:
        The broken filter; beliefs are NaN from where it fails.

    Example:
        >>> import torch
        >>> from pyro_geo.filtering import hgf_filter
        >>> broken = classic_as_unbounded(hgf_filter)
        >>> u, levels = torch.tensor([0.0, 0.1, 4.0, 3.5]), torch.tensor([-2.0, -2.0])
        >>> options = {"input_precision": 1.0, "kind": "continuous"}
        >>> start = [1.0], [0.0, 0.0], [1.0, 1.0]
        >>> beliefs = [f(u, levels, *start, **options) for f in (hgf_filter, broken)]
        >>> [round(float(b.pi[2, 1]), 2) for b in beliefs]  # after the jump
        [0.95, 0.6]
    """

    def broken(*args: Any, **options: Any) -> Beliefs:
        update = options.get("update", "unbounded")
        if update == "unbounded":
            options |= {"update": "classic", "on_invalid": "nan"}
        return filter_fn(*args, **options)

    return broken
