"""Random numbers that differ between the lanes of a mapped model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["LaneRandomness"]


def _uniform(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    # rounding may reach the upper end, where samplers take the logarithm of zero
    ends = torch.tensor([low, high], dtype=x.dtype, device=x.device)
    below = torch.nextafter(ends[1], ends[0])
    return (low + (high - low) * torch.rand_like(x)).clamp(max=below)


def _exponential(x: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.log1p(-torch.rand_like(x)) / rate


def _cauchy(x: Tensor, median: float = 0.0, scale: float = 1.0) -> Tensor:
    return median + scale * torch.tan(math.pi * (torch.rand_like(x) - 0.5))


def _normal(x: Tensor, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn_like(x)


class LaneRandomness(TorchFunctionMode):
    """Let samplers that fill a fresh tensor in place draw for every lane.

    `vmap` cannot fill one tensor differently for each lane. The samplers of torch and
    Pyro use what such a call returns, so a tensor of the same law is returned; the
    fresh one becomes NaN, so that nothing takes its content for random numbers.
    """

    replaced: Mapping[Any, Callable[..., Tensor]] = {
        Tensor.uniform_: _uniform,
        Tensor.exponential_: _exponential,
        Tensor.cauchy_: _cauchy,
        Tensor.normal_: _normal,
    }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Intercept a few calls, leave every other alone."""
        if func is torch.binomial and len(args) == 2:
            # torch makes its result as large as the first, and may have to resize it
            count, probability = torch.broadcast_tensors(*args)
            count = count + torch.zeros_like(probability)
            return func(count, probability, **(kwargs or {}))
        if func in self.replaced and not kwargs:
            args[0].fill_(math.nan)
            return self.replaced[func](*args)
        return func(*args, **(kwargs or {}))
