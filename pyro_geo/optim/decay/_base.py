"""Which base optimisers can be wrapped, and how they are made."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_geo.errors import (
    OpposedDecayWarning,
    SparseGradientError,
    UnsupportedOptimizerError,
)

__all__ = [
    "align_gradients",
    "check_base",
    "check_gradients",
    "fused_options",
    "warn_of_opposed",
]


def fused_options(
    base: Callable[..., Any], groups: list[dict[str, Any]], given: dict[str, Any]
) -> dict[str, Any]:
    """Choose the fused form of a base that has one, where nothing else was asked."""
    ways = {"fused", "foreach", "capturable", "differentiable"}
    able = "fused" in inspect.signature(base).parameters
    params = [p for group in groups for p in group["params"]]
    plain = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params
    )
    if not able or not plain or ways & given.keys() or any(ways & {*g} for g in groups):
        return {}
    return {"fused": True}


def align_gradients(groups: list[dict[str, Any]]) -> None:
    """Give gradients the strides of their parameters, where the base is fused.

    torch's fused optimisers walk through both in memory order. Autograd sees to it that
    they agree; a gradient that was set by hand may not.
    """
    for group in groups:
        for param in group["params"] if group.get("fused") else ():
            grad = param.grad
            if grad is None or grad.layout is not torch.strided:
                continue
            if grad.stride() != param.stride():
                param.grad = torch.empty_like(param).copy_(grad)


def check_gradients(params: Iterable[Tensor]) -> None:
    """Refuse sparse gradients, before anything has changed.

    Args:
        params: parameters with gradients.

    Raises:
        SparseGradientError: one is sparse.
    """
    for param in params:
        if param.grad is not None and param.grad.layout is not torch.strided:
            raise SparseGradientError(
                "a gradient is sparse",
                where=f"parameter of shape {tuple(param.shape)}",
                found=str(param.grad.layout),
                expected="torch.strided",
                todo="Make the layer without sparse=True, or pass anchor='free' for it "
                "and a base that takes sparse gradients.",
            )


def check_base(base: torch.optim.Optimizer) -> None:
    """Refuse a base optimiser whose step needs more than dense gradients."""
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        _unsupported(base, "evaluates the loss by itself")
    if isinstance(base, torch.optim.SparseAdam):
        _unsupported(base, "takes sparse gradients alone")


def warn_of_opposed(
    number: int, group: Mapping[str, Any], anchors: Mapping[Tensor, Tensor | None]
) -> None:
    """Warn of weight decay to zero in a group that is anchored elsewhere."""
    held = any(anchors.get(param) is not None for param in group["params"])
    if group.get("weight_decay") and group["spd"] > 0 and held:
        warnings.warn(
            OpposedDecayWarning(
                "weight decay pulls to zero, against the anchor",
                where=f"group {number}",
                found=f"weight_decay={group['weight_decay']}",
                expected="0 where the anchor is not",
                todo="Pass weight_decay=0, or anchor='free' for this group.",
            ),
            stacklevel=4,
        )


def _unsupported(base: object, what: str) -> None:
    raise UnsupportedOptimizerError(
        "the base optimiser cannot be wrapped",
        where="argument base",
        found=f"{type(base).__name__}, which {what}",
        expected="one whose step() uses dense gradients that are there",
        todo="Pass torch.optim.Adam, or leave SPD out.",
    )
