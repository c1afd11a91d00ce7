"""Tensors as NumPy arrays, and whether two hold the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["same_values", "to_numpy"]


def same_values(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors are the same in type, shape and every value.

    Args:
        first: one of them.
        second: the other; NaN is the same as NaN, and as nothing else.

    Returns:
        Whether they are.

    Example:
        >>> gap = torch.tensor([1.0, float("nan")])
        >>> same_values(gap, gap.clone()), same_values(gap, gap.nan_to_num())
        (True, False)
    """
    if first.dtype != second.dtype or not torch.equal(first.isnan(), second.isnan()):
        return False
    return torch.equal(first.nan_to_num(), second.nan_to_num())


def to_numpy(value: Tensor) -> np.ndarray:
    """Copy a tensor of any type, from any device, to NumPy.

    Args:
        value: the tensor; one in bfloat16, which NumPy does not have, comes in single
            precision, where all its numbers are.

    Returns:
        The same numbers.

    Example:
        >>> to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype
        dtype('float32')
    """
    value = value.detach().cpu().resolve_conj().resolve_neg()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
