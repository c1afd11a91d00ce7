"""Tensors as NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["to_numpy"]


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
