"""Tensors that bounded distributions share: their type, and the field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["log_field", "some_tensor"]


def some_tensor(base: Any) -> Tensor:
    """Find a tensor of the dtype and the device of a distribution's numbers.

    Args:
        base: a distribution, perhaps of another.

    Returns:
        One of its parameters.
    """
    while hasattr(base, "base_dist"):
        base = base.base_dist
    # a beta distribution holds its numbers in another distribution
    values = [*vars(base).values(), *(getattr(base, x) for x in base.arg_constraints)]
    floating = [x for x in values if isinstance(x, Tensor) and x.is_floating_point()]
    return floating[0] if floating else torch.ones(())


def log_field(share: Tensor, kappa: float) -> Tensor:
    r"""Logarithm of the field, :math:`\kappa \log(1 - I/c)`.

    Args:
        share: :math:`I / c`, the information of a point over that of the edge.
        kappa: power of the field.

    Returns:
        The logarithm, same shape; finite on the edge, as rounding may put a point of
        the support there.
    """
    top = 1 - torch.finfo(share.dtype).eps
    return kappa * torch.log1p(-share.clamp(0.0, top))
