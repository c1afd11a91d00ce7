"""The rule of selective projection decay, for arrays of NumPy and tensors of torch."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["deviation_ratio", "share_of"]

Array = TypeVar("Array", np.ndarray, Tensor)


def deviation_ratio(dot: Array, before: Array, after: Array) -> Array:
    r"""Compute the share of its radius by which a tensor has just moved outwards.

    .. math:: r = \max\bigl(0, (\tilde\gamma - \gamma) / \tilde\gamma\bigr)
              \text{ if } \langle g, \theta - a\rangle > 0, \text{ else } 0

    It lies in [0, 1). A NaN compares as false and gives 0.

    Args:
        dot: `<g, theta - a>` of the gradient of the loss and the displacement that it
            was taken at.
        before: norm of that displacement, like `dot`.
        after: norm of the displacement that the base step proposes.

    Returns:
        The ratio, like `dot`.

    References:
        Tian, Huang and Kira (2024), Rethinking Weight Decay for Robust Fine-Tuning of
        Foundation Models, arXiv 2411.01713.

    Example:
        >>> one = torch.ones(3)
        >>> deviation_ratio(torch.tensor([1.0, -1.0, 0.0]), one, 2 * one)
        tensor([0.5000, 0.0000, 0.0000])
    """
    xp: Any = torch if isinstance(dot, Tensor) else np
    outwards = (dot > 0) & (after > before)
    return xp.where(outwards, 1 - before / xp.where(outwards, after, 1.0), 0.0)


def share_of(ratio: Array, spd: Array, *, allow_overshoot: bool = False) -> Array:
    r"""Compute the share of the displacement that is taken off.

    .. math:: k = \min(\lambda r, 1)

    Args:
        ratio: deviation ratio.
        spd: strength `lambda`, like `ratio`.
        allow_overshoot: leave out the minimum, as the published update does; a tensor
            may then pass through its anchor.

    Returns:
        The share, like `ratio`.

    Example:
        >>> share_of(torch.tensor([0.2, 0.6]), torch.tensor([2.0, 2.0]))
        tensor([0.4000, 1.0000])
    """
    k = spd * ratio
    return k if allow_overshoot else k.clip(max=1.0)
