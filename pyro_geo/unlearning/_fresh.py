"""Optimisers without a past."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from pyro_geo.errors import UnsupportedOptimizerError

__all__ = ["Optimizers", "copied_optimizer", "fresh_optimizer"]

Optimizers = torch.optim.Optimizer | Callable[[list[torch.nn.Parameter]], Any]
"""An optimiser, or a function that makes one of parameters."""


def fresh_optimizer(
    optimizer: Optimizers | None,
    old: Mapping[str, Tensor],
    new: Mapping[str, torch.nn.Parameter],
) -> Any:
    """Make the optimiser anew for other parameters, with its options and no memory.

    It is constructed and not copied, so that no buffer, counter or cache can be left.

    Args:
        optimizer: the old one, or a function that makes one.
        old: parameters of the old one by name.
        new: parameters by the same names.

    Returns:
        The optimiser; None for None. One that cannot be constructed from its options
        raises :class:`~pyro_geo.errors.UnsupportedOptimizerError`.
    """
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer(list(new.values()))
    names = {id(value): name for name, value in old.items()}
    groups = []
    for group in optimizer.param_groups:
        unknown = [p for p in group["params"] if id(p) not in names]
        if unknown:
            _refuse(optimizer, "parameters that are not the module's")
        options = {k: group[k] for k in optimizer.defaults if k in group}
        own = [new[names[id(p)]] for p in group["params"]]
        groups.append({**options, "params": own})
    try:
        return type(optimizer)(groups, **_options(optimizer))
    except (TypeError, ValueError) as reason:
        _refuse(optimizer, str(reason), reason)


def copied_optimizer(
    optimizer: torch.optim.Optimizer,
    old: Mapping[str, Tensor],
    new: Mapping[str, torch.nn.Parameter],
) -> Any:
    """Make the optimiser anew for other parameters, with its memory.

    Some optimisers lose options where they are copied as an object.

    Args:
        optimizer: the old one.
        old: its parameters by name.
        new: parameters by the same names.

    Returns:
        The optimiser.
    """
    made = fresh_optimizer(optimizer, old, new)
    made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return made


def _options(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Options that the constructor takes, from the defaults or attributes."""
    found = {}
    for name in list(inspect.signature(type(optimizer)).parameters)[1:]:
        if name in optimizer.defaults:
            found[name] = optimizer.defaults[name]
        elif name in vars(optimizer) and not isinstance(vars(optimizer)[name], Tensor):
            found[name] = vars(optimizer)[name]
    return found


def _refuse(optimizer: Any, found: str, reason: Exception | None = None) -> NoReturn:
    raise UnsupportedOptimizerError(
        "the optimiser cannot be made anew",
        where=type(optimizer).__name__,
        found=found,
        expected="one that its class makes from the parameters and its defaults",
        todo="Pass optimizer= a function that makes it from parameters.",
    ) from reason
