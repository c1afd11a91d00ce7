"""Which memories an optimiser holds, through whatever holds the optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import (
    NonFiniteStateError,
    UnsupportedError,
    UnsupportedOptimizerError,
)
from pyro_geo.optim import SPD, EigenONS
from pyro_geo.unlearning._buffers import (
    DIAGONAL,
    Buffers,
    DiagonalBuffers,
    OnsBuffers,
)
from pyro_geo.unlearning._factors import FactorBuffers

__all__ = ["base_groups", "buffers_of"]


class _Part(NamedTuple):
    name: str | None
    optimizer: Any


def buffers_of(optimizer: Any, names: Iterable[str] | None = None) -> list[Buffers]:
    """List the memories of an optimiser, in the order of its parameters.

    Args:
        optimizer: of torch or pytorch_optimizer, ours, or Pyro's around any of these.
        names: of the parameters in their order; numbers or Pyro's names if None.

    Returns:
        One for each parameter, or one in all.

    Raises:
        NonFiniteStateError: a buffer is NaN or infinite.
        UnsupportedOptimizerError: the optimiser holds no memory that is known.
    """
    found: list[Buffers] = []
    labels = None if names is None else list(names)
    for part in _parts(optimizer):
        base = part.optimizer
        if isinstance(base, EigenONS):
            name = part.name or "parameters"
            group = base.param_groups[0]
            found.append(OnsBuffers(name, base, group, group["params"][0]))
            continue
        kind = type(base).__name__
        if kind not in {*DIAGONAL, "SOAP", "Shampoo"}:
            known = ["EigenONS", "SOAP", "Shampoo", *sorted(DIAGONAL)]
            raise UnsupportedOptimizerError(
                "an optimiser without a memory that is known",
                found=kind,
                expected=" or ".join(known) + ", or Pyro's around one",
                todo="A plain gradient step or momentum holds no curvature: compare "
                "parameters alone.",
            )
        for group in base.param_groups:
            own = group.get("param_names")
            for i, param in enumerate(group["params"]):
                name = part.name or (own[i] if own else str(len(found)))
                found.append(_buffers(kind, name, base, group, param))
    if labels is not None and not any(isinstance(b, OnsBuffers) for b in found):
        check(len(labels) == len(found), "names", len(labels), len(found))
        for one, label in zip(found, labels, strict=True):
            one.name = label
    for one in found:
        for label, tensor in one.tensors():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NonFiniteStateError(
                    "a buffer of an optimiser is not finite",
                    where=f"buffer {label}",
                    found="NaN or infinity",
                    expected="finite numbers",
                    todo="Go back to the last good checkpoint; a treatment cannot "
                    "repair it.",
                )
    return found


def base_groups(optimizer: Any) -> list[dict[str, Any]]:
    """List the groups of parameters of an optimiser, or of all inside Pyro's."""
    parts = _parts(optimizer)
    return [group for part in parts for group in part.optimizer.param_groups]


def _buffers(
    kind: str, name: str, base: Any, group: dict, param: Tensor
) -> DiagonalBuffers | FactorBuffers:
    if kind in DIAGONAL:
        return DiagonalBuffers(name, base, group, param)
    if kind == "SOAP" and getattr(base, "data_format", "") == "channels_last":
        raise UnsupportedError(
            "factors of axes in another order",
            where="optimiser SOAP",
            found="data_format='channels_last'",
            expected="'channels_first'",
            todo="Keep the tensors of the network in that order.",
        )
    flat = kind == "SOAP" and param.ndim == 1
    if flat and not (
        group["precondition_1d"] and param.numel() <= group["max_precondition_dim"]
    ):
        return DiagonalBuffers(name, base, group, param)
    if param.ndim == 0:
        return DiagonalBuffers(name, base, group, param)
    return FactorBuffers(name, base, group, param)


def _parts(optimizer: Any) -> list[_Part]:
    """Take optimisers out of what holds them."""
    if isinstance(optimizer, PyroOptim):
        store = pyro.get_param_store()
        parts = []
        for param, inner in optimizer.optim_objs.items():
            for part in _parts(inner):
                parts.append(_Part(store.param_name(param), part.optimizer))
        return parts
    if isinstance(optimizer, SPD):
        return _parts(optimizer.base)
    # a scheduler holds its optimiser
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        return _parts(inner)
    return [_Part(None, optimizer)]
