"""Data of a network: checked, aligned by input, and with what is missing marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_geo._compat.torch import is_concrete
from pyro_geo.checks import check, check_choice
from pyro_geo.errors import HGFDomainError, HGFShapeError
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import NetworkInputs

__all__ = ["Data", "NanPolicy", "network_inputs"]

Data = Tensor | Mapping[str, Tensor]
NanPolicy = Literal["raise", "missing"]


def network_inputs(
    graph: Graph,
    u: Data,
    *,
    observed: Data | None = None,
    time_step: float | Tensor | None = None,
    nan_policy: NanPolicy = "raise",
) -> NetworkInputs:
    """Align the data of a network by its inputs.

    Args:
        graph: of the network.
        u: values by name of the input, each `(*batch, T)`; or one tensor, `(*batch, T)`
            for a network with one input and `(*batch, T, inputs)` for one with several.
        observed: whether there is a value, of the same form; all by default.
        time_step: time since the step before, a number or `(*batch, T)`; 1 by default.
        nan_policy: whether NaN is a mistake ("raise") or a missing value ("missing").

    Returns:
        The inputs.

    Raises:
        HGFShapeError: an input has no data, or the shapes do not go together.

    Example:
        >>> from pyro_geo.filtering.hgf.network.graph import Input, build_graph
        >>> graph = build_graph(["x"], [], [Input("x", "x", "continuous")])
        >>> data = torch.tensor([1.0, torch.nan])
        >>> network_inputs(graph, data, nan_policy="missing").observed.flatten()
        tensor([ True, False])
    """
    check_choice("nan_policy", nan_policy, ("raise", "missing"))
    values = _aligned(graph, u, "u")
    if not values.is_floating_point():
        values = values.to(torch.get_default_dtype())
    if observed is None:
        seen = torch.ones_like(values, dtype=torch.bool)
    else:
        seen = _aligned(graph, observed, "observed").to(torch.bool)
    step = torch.as_tensor(
        1.0 if time_step is None else time_step,
        dtype=values.dtype,
        device=values.device,
    )
    length = values.shape[-2]
    if step.dim() == 0:
        step = step.expand(length)
    try:
        values, seen = torch.broadcast_tensors(values, seen)
        torch.broadcast_shapes(values.shape[:-1], step.shape)
    except RuntimeError as error:
        raise HGFShapeError(
            "shapes do not broadcast",
            where="inputs of a network",
            found=f"u {tuple(values.shape)}, observed {tuple(seen.shape)}, "
            f"time_step {tuple(step.shape)}",
            expected="(*batch, T, inputs) and time steps (*batch, T)",
            todo="Give them the same length and batches that broadcast.",
        ) from error
    check(
        step.shape[-1] == length,
        "time_step",
        tuple(step.shape),
        f"a number or (*batch, {length})",
        error=HGFShapeError,
    )
    if nan_policy == "missing":
        seen = seen & ~values.isnan()
    if is_validation_enabled() and is_concrete(values, seen, step):
        _check_values(graph, values, seen, step)
    return NetworkInputs(torch.where(seen, values, 0.0), seen, step)


def _aligned(graph: Graph, given: Data, what: str) -> Tensor:
    """Stack data by input, `(*batch, T, inputs)`."""
    names = [seen.name for seen in graph.inputs]
    if isinstance(given, Tensor):
        if len(names) == 1 and given.dim():
            given = given.unsqueeze(-1)
        check(
            given.dim() >= 2 and given.shape[-1] == len(names),
            what,
            tuple(given.shape),
            f"(*batch, T, {len(names)}) for inputs {', '.join(names)}",
            error=HGFShapeError,
        )
        return given
    for name in names:
        check(name in given, what, f"no {name}", ", ".join(names), error=HGFShapeError)
    for name in given:
        check(name in names, what, name, ", ".join(names), error=HGFShapeError)
    rows: Sequence[Tensor] = [torch.as_tensor(given[name]) for name in names]
    try:
        return torch.stack(torch.broadcast_tensors(*rows), -1)
    except RuntimeError as error:
        raise HGFShapeError(
            "inputs of one network do not broadcast",
            where=f"argument {what}",
            found={
                name: tuple(row.shape) for name, row in zip(names, rows, strict=True)
            },
            expected="(*batch, T) each, with the same T",
            todo="Pad them, and say in `observed` where there is no value.",
        ) from error


def _check_values(graph: Graph, u: Tensor, seen: Tensor, step: Tensor) -> None:
    _refuse(~(step > 0) | step.isinf(), "time_step", step, "above 0 and finite")
    for k, found in enumerate(graph.inputs):
        bad = ~u[..., k].isfinite()
        expected = "a number"
        if found.kind == "binary":
            bad = (u[..., k] != 0) & (u[..., k] != 1)
            expected = "0 or 1"
        _refuse(bad & seen[..., k], f"input {found.name}", u[..., k], expected)


def _refuse(bad: Tensor, what: str, values: Tensor, expected: str) -> None:
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        raise HGFDomainError(
            "value out of range",
            where=f"{what}, batch {place[:-1]}, step {place[-1]}",
            found=values[place].item(),
            expected=expected,
            todo="Correct it, or mark it as missing by `observed` or `nan_policy`.",
        )
