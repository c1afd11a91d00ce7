"""Action sequences moved on in time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shifted"]


def shifted(u: Tensor, horizon: int, steps: int) -> Tensor:
    """Drop the first actions of sequences and repeat the last one.

    Args:
        u: sequences, `(..., H m)`.
        horizon: `H`.
        steps: actions to drop.

    Returns:
        Sequences of the same length, in memory of their own.

    Example:
        >>> shifted(torch.tensor([1.0, 2.0, 3.0]), 3, 1)
        tensor([2., 3., 3.])
    """
    steps = min(steps, horizon)
    by_step = u.unflatten(-1, (horizon, -1))
    last = by_step[..., -1:, :].expand(*by_step.shape[:-2], steps, by_step.shape[-1])
    return torch.cat([by_step[..., steps:, :], last], -2).flatten(-2)
