"""Sorting parameters into bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.errors import ConfigurationError
from pyro_geo.optim.decay._bundle import (
    RECORDS,
    Bundle,
    CompiledBundle,
    ForeachBundle,
    Member,
)

__all__ = ["blank_record", "bundle_up"]

_EXACT = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def bundle_up(
    held: Sequence[tuple[Tensor, int]],
    anchors: Mapping[Tensor, Tensor | None],
    records: Mapping[Tensor, np.ndarray],
    pooled: bool,
) -> list[Bundle[Any]]:
    """Sort parameters into bundles: compiled loops where they can run.

    Args:
        held: parameters, each with the number of its group.
        anchors: of the parameters.
        records: what earlier steps have summed.
        pooled: whether norms are those of whole groups.

    Returns:
        The bundles.
    """
    lists: dict[Any, list[Member]] = {}
    for param, group in held:
        anchor = anchors[param]
        # a module may have been moved or cast since it was anchored
        anchor = None if anchor is None else anchor.to(param)
        kind = _kind(param, anchor)
        lists.setdefault(kind, []).append(Member(param, anchor, group))
    if pooled:
        _check_together(lists)
    bundles: list[Bundle[Any]] = []
    for (compiled, *_), members in lists.items():
        rows = [records.get(m.param, blank_record()) for m in members]
        make = CompiledBundle if compiled else ForeachBundle
        bundles.append(make(members, np.stack(rows, axis=1)))
    return bundles


def blank_record() -> np.ndarray:
    """Make the record of a parameter that has taken no step."""
    record = np.zeros(len(RECORDS))
    record[RECORDS.index("norm")] = -1.0  # none measured yet
    return record


def _kind(param: Tensor, anchor: Tensor | None) -> tuple[bool, Any, Any]:
    compiled = (
        type(param) in (Tensor, torch.nn.Parameter)
        and param.device.type == "cpu"
        and param.dtype in _EXACT
        and param.is_contiguous()
        and (anchor is None or anchor.is_contiguous())
    )
    return compiled, param.device, param.dtype if compiled else None


def _check_together(lists: dict[Any, list[Member]]) -> None:
    """Refuse a group whose norms would have to be summed over devices or types."""
    homes: dict[int, set[Any]] = {}
    for kind, members in lists.items():
        for member in members:
            homes.setdefault(member.group, set()).add(kind)
    if split := [group for group, kinds in homes.items() if len(kinds) > 1]:
        raise ConfigurationError(
            "the norm of a group is taken on one device, in one type",
            where=f"granularity='group', group {split[0]}",
            found=f"{len(homes[split[0]])} of them",
            expected="one",
            todo="Make a group for each, or pass granularity='tensor'.",
        )
