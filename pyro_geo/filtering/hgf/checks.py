"""Inputs and parameters of a filter: their types, shapes and ranges, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, reading_numbers
from pyro_geo.errors import HGFShapeError
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters, Kind
from pyro_geo.filtering.hgf.ranges import check_inputs, check_parameters
from pyro_geo.filtering.hgf.trajectory import HGFState

__all__ = ["KINDS", "common_type", "hgf_inputs", "hgf_parameters"]

KINDS = ("continuous", "binary", "categorical")
"""Kinds of input."""

Numbers = float | Sequence[float] | Tensor


def common_type(*values: Any) -> tuple[torch.dtype, torch.device]:
    """Find the floating type and the device that values have in common.

    Args:
        values: numbers, arrays and tensors. Tensors of a floating type decide on the
            type; without any it is double precision.

    Returns:
        Type and device.
    """
    tensors = [x for x in values if isinstance(x, Tensor)]
    types = [x.dtype for x in tensors if x.is_floating_point()]
    found = types[0] if types else torch.float64
    for other in types[1:]:
        found = torch.promote_types(found, other)
    return found, tensors[0].device if tensors else torch.device("cpu")


def _numbers(name: str, value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    with reading_numbers(name, value, HGFShapeError):
        return torch.as_tensor(value, dtype=dtype, device=device)


def _broadcast(
    named: dict[str, Tensor], shapes: Sequence[Sequence[int]], expected: str
) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise HGFShapeError(
            "shapes do not go together",
            where=f"arguments {', '.join(named)}",
            found=", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items()),
            expected=expected,
            todo="Batch axes come first and must broadcast; the last axis is shared.",
        ) from None


def hgf_parameters(
    omega: Numbers,
    kappa: Numbers | None,
    mu0: Numbers | None,
    pi0: Numbers | None,
    input_precision: Numbers | None = None,
    *,
    kind: Kind = "continuous",
    drift: Numbers | None = None,
    autoconnection: Numbers | None = None,
    value_coupling: Numbers | None = None,
    num_classes: int | None = None,
    init_state: HGFState | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    validate: bool = True,
) -> HGFParameters:
    r"""Check the parameters of a filter and give them one batch shape.

    Values are looked at only where they may be: not in a trace and not under a
    transform of `torch.func`. Shapes are always checked.

    Args:
        omega: tonic log-volatility, `(*batch, L)`; numbers are for all levels.
        kappa: volatility coupling, `(*batch, L - 1)`; None with one level.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before it, above 0, `(*batch, L)`.
        input_precision: of continuous input, above 0, `(*batch,)`.
        kind: of input. With "categorical" the axis before the levels is that of the
            classes, of size K or 1; a parameter with one axis is for all classes.
        drift: change of the mean per time, `(*batch, L)`; default 0.
        autoconnection: share of the state that stays, `(*batch, L)`; default 1.
        value_coupling: of a level's drift to the level above, `(*batch, L - 1)`;
            default 0.
        num_classes: K, if the parameters do not tell.
        init_state: beliefs to start from instead of `mu0` and `pi0`.
        dtype: of the result; None for the one that the tensors have in common.
        device: of the result; None for that of the tensors.
        validate: whether values are checked too, where they may be looked at.

    Returns:
        The parameters, views of what was passed wherever possible.

    Raises:
        HGFShapeError: the numbers of levels differ.

    Example:
        >>> parameters = hgf_parameters([-3.0, -2.0], 1.0, 0.0, 1.0, 10.0)
        >>> parameters.mu0.shape, parameters.kappa.shape
        (torch.Size([2]), torch.Size([1]))
    """
    check_choice("kind", kind, KINDS)
    if init_state is not None:
        mu0, pi0 = init_state
    check(mu0 is not None and pi0 is not None, "mu0, pi0", None, "both, or init_state")
    if kind == "continuous":
        good = input_precision is not None
        check(good, "input_precision", None, "a precision, as the input is continuous")
    given = {
        "omega": omega,
        "kappa": kappa,
        "mu0": mu0,
        "pi0": pi0,
        "drift": drift,
        "autoconnection": autoconnection,
        "value_coupling": value_coupling,
    }
    found, place = common_type(*given.values(), input_precision)
    dtype, device = dtype or found, device or place
    defaults = {
        "kappa": 1.0,
        "drift": 0.0,
        "autoconnection": 1.0,
        "value_coupling": 0.0,
    }
    named = {
        name: _numbers(name, defaults[name] if value is None else value, dtype, device)
        for name, value in given.items()
    }
    between = ("kappa", "value_coupling")
    sizes = {
        name: x.shape[-1] + (name in between)
        for name, x in named.items()
        if x.dim() and (name in between or x.shape[-1] > 1)
    }
    if len(set(sizes.values())) > 1:
        raise HGFShapeError(
            "numbers of levels differ",
            where=f"arguments {', '.join(sizes)}",
            found=", ".join(f"{name} for {n} levels" for name, n in sizes.items()),
            expected="(..., L) for each level, (..., L - 1) between levels",
            todo="Give kappa and value_coupling one number less than the others.",
        )
    levels = next(iter(sizes.values()), 1)
    if kappa is None:
        check(levels == 1, "kappa", None, f"{levels - 1} couplings of {levels} levels")
    precision = 1.0 if input_precision is None else input_precision
    noise = _numbers("input_precision", precision, dtype, device)
    shapes = {name: x.shape[:-1] for name, x in named.items()}
    classes: int | None = None
    if kind == "categorical":
        classes = _classes(shapes, num_classes)
        shapes["classes"] = torch.Size([classes])
    batch = _broadcast(
        {**named, "input_precision": noise},
        [*shapes.values(), noise.shape],
        "batch shapes that broadcast",
    )
    result = HGFParameters(
        **{
            name: x.expand(*batch, levels - (name in between))
            for name, x in named.items()
        },
        input_precision=noise.expand(batch),
    )
    if validate:
        check_parameters(result, kind)
    return result


def _classes(shapes: dict[str, torch.Size], num_classes: int | None) -> int:
    own = {shape[-1] for shape in shapes.values() if len(shape)} - {1}
    own |= set() if num_classes is None else {num_classes}
    if len(own) != 1:
        raise HGFShapeError(
            "number of classes unclear",
            where="argument num_classes",
            found=sorted(own),
            expected="one number of at least 2",
            todo="Pass num_classes, or parameters of shape (..., K, L) or (..., 1, L).",
        )
    return own.pop()


def hgf_inputs(
    u: Numbers,
    *,
    kind: Kind = "continuous",
    observed: Sequence[bool] | Tensor | None = None,
    time_step: Numbers | None = None,
    nan_policy: str = "raise",
    num_classes: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    validate: bool = True,
) -> HGFInputs:
    r"""Check the inputs of a filter and say which of them are observed.

    Args:
        u: inputs, `(*batch, T)`; 0 or 1 if binary, class numbers if categorical.
        kind: of input.
        observed: which there are, bool, broadcasts against `u`; what is not may have
            any value. Default all.
        time_step: time since the step before, above 0, broadcasts; default 1.
        nan_policy: "raise" refuses a NaN that is said to be observed, "missing" takes
            it as not observed.
        num_classes: number of classes of categorical input.
        dtype: of the result; None for the one that the tensors have in common.
        device: of the result; None for that of the tensors.
        validate: whether values are checked too, where they may be looked at.

    Returns:
        The inputs, of shape `(*batch, T)`; of categorical input one row for each class,
        1 where the class was seen, `(*batch, K, T)`.

    Raises:
        HGFShapeError: there is no axis of time, or no trial on it.

    Example:
        >>> inputs = hgf_inputs([0.1, float("nan"), 0.3], nan_policy="missing")
        >>> inputs.observed.tolist()
        [True, False, True]
    """
    check_choice("kind", kind, KINDS)
    check_choice("nan_policy", nan_policy, ("raise", "missing"))
    found, place = common_type(u, time_step)
    dtype, device = dtype or found, device or place
    values = _numbers("u", u, dtype, device)
    if not values.dim() or not values.shape[-1]:
        raise HGFShapeError(
            "no axis of time" if not values.dim() else "no trials",
            where="argument u",
            found=tuple(values.shape),
            expected="(*batch, T) with T of at least 1",
            todo="Pass a series; one number is a series of shape (1,).",
        )
    step = _numbers("time_step", 1.0 if time_step is None else time_step, dtype, device)
    seen = torch.as_tensor(
        True if observed is None else observed, dtype=torch.bool, device=device
    )
    named = {"u": values, "observed": seen, "time_step": step}
    shape = _broadcast(named, [x.shape for x in named.values()], "(*batch, T)")
    values, seen, step = (x.expand(shape) for x in (values, seen, step))
    if nan_policy == "missing":
        seen = seen & ~values.isnan()
    if validate:
        check_inputs(values, seen, step, kind, num_classes)
    values = torch.where(seen, values, 0.0)
    if kind != "categorical":
        return HGFInputs(values, seen, step)
    if num_classes is None:
        raise HGFShapeError(
            "number of classes unclear",
            where="argument num_classes",
            found=None,
            expected="a number of at least 2",
            todo="Pass num_classes.",
        )
    numbers = torch.arange(num_classes, dtype=dtype, device=device).unsqueeze(-1)
    seen, step = seen.unsqueeze(-2), step.unsqueeze(-2)
    rows = (values.unsqueeze(-2) == numbers).to(dtype)
    return HGFInputs(
        torch.where(seen, rows, 0.0), *(x.expand(rows.shape) for x in (seen, step))
    )
