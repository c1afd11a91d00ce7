"""The dtype and the device of a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["some_tensor"]


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
