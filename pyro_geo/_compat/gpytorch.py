"""What we use of GPyTorch's private interfaces, seen with gpytorch 1.15.2.

Each name below has a test in `tests/compat/test_gpytorch.py` that fails when GPyTorch
changes it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["mappable_pieces"]


class _NeverEqual(TorchFunctionMode):
    """Answer the question whether two tensors are equal with no.

    Under `vmap` the question has no single answer. GPyTorch asks it to set the
    distances of equal inputs to an exact zero; else they are zero up to rounding.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return False if func is torch.equal else func(*args, **(kwargs or {}))


def mappable_pieces() -> tuple[tuple[Any, str, Any], ...]:
    """Object, name of its attribute, and what replaces it in mapped densities.

    GPyTorch's own autograd functions have no rule for `vmap`. Its settings for tracing
    lead around them, to dense operations of torch.

    Returns:
        Nothing, as long as GPyTorch has not been imported.
    """
    gpytorch: Any = sys.modules.get("gpytorch")
    linear_operator: Any = sys.modules.get("linear_operator")
    if gpytorch is None or linear_operator is None:
        return ()
    covar_dist = gpytorch.kernels.Kernel.covar_dist

    def distances(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        with _NeverEqual():
            return covar_dist(self, *args, **kwargs)

    fast = gpytorch.settings.fast_computations
    flags = {
        gpytorch.settings.trace_mode: True,
        linear_operator.settings.trace_mode: True,
        gpytorch.settings.lazily_evaluate_kernels: False,
        fast.covar_root_decomposition: False,
        fast.log_prob: False,
        fast.solves: False,
    }
    return (
        (gpytorch.kernels.Kernel, "covar_dist", distances),
        *((flag, "_state", state) for flag, state in flags.items()),
    )
