"""Values of a filter's inputs and parameters: refused, or taken out of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo._compat.torch import is_concrete
from pyro_geo.errors import HGFDomainError
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters, Kind

__all__ = [
    "check_inputs",
    "check_numbers",
    "check_parameters",
    "largest",
    "place_of",
    "without_unsound",
]


def place_of(bad: Tensor, names: Sequence[str]) -> str:
    """Name the first True of a mask by the index on each of its last axes.

    Args:
        bad: mask that is True somewhere.
        names: of its last axes; axes before them are `batch`.

    Returns:
        Such as "subject 3, trial 17".
    """
    index = bad.nonzero()[0].tolist()
    axes = [*["batch"] * bad.dim(), *names][len(names) :]
    return ", ".join(f"{n} {i}" for n, i in zip(axes, index, strict=True)) or "scalar"


def _refuse(
    bad: Tensor,
    name: str,
    values: Tensor,
    expected: str,
    axes: Sequence[str],
    todo: str,
) -> None:
    if not bool(bad.any()):
        return
    bad, values = torch.broadcast_tensors(bad, values)
    raise HGFDomainError(
        f"{name} out of range",
        where=place_of(bad, axes),
        found=values[bad][0].item(),
        expected=expected,
        todo=todo,
    )


def check_parameters(parameters: HGFParameters, kind: Kind) -> None:
    """Refuse a precision that is none, where values may be looked at.

    Args:
        parameters: of a filter.
        kind: of its input.
    """
    levels, noise = parameters.pi0, parameters.input_precision
    if not is_concrete(levels, noise):
        return
    classes = ("class",) if kind == "categorical" else ()
    axes = ("subject", *classes, "level")
    todo = "Constrain it, to the exponential of a site say."
    for name, x, own in (("pi0", levels, axes), ("input_precision", noise, axes[:-1])):
        _refuse(~((x > 0) & x.isfinite()), name, x, "a positive number", own, todo)


def check_numbers(parameters: HGFParameters, kind: Kind) -> None:
    """Refuse a parameter of NaN, from which beliefs would follow that look sound.

    Args:
        parameters: of a filter; infinite ones can be meant.
        kind: of its input.
    """
    fields = parameters._replace(input_precision=parameters.input_precision[..., None])
    if not is_concrete(*fields):
        return
    classes = ("class",) if kind == "categorical" else ()
    for name, x in fields._asdict().items():
        axes = ("subject", *classes, "level")
        todo = "Look where it was computed."
        _refuse(x.isnan(), name, x, "a number", axes, todo)


def check_inputs(
    u: Tensor,
    observed: Tensor,
    time_step: Tensor,
    kind: Kind,
    num_classes: int | None,
) -> None:
    """Refuse values that an input of this kind cannot have.

    Args:
        u: inputs as they were passed, `(*batch, T)`.
        observed: which there are.
        time_step: time since the step before.
        kind: of input.
        num_classes: number of classes of categorical input.
    """
    if not is_concrete(u, observed, time_step):
        return
    axes = ("subject", "trial")
    todo = "Pass observed=, or nan_policy='missing' if NaN means not observed."
    expected = "a number, as it is observed"
    _refuse(observed & u.isnan(), "u", u, expected, axes, todo)
    if kind == "continuous":
        bad = observed & u.isinf()
        _refuse(bad, "u", u, "a finite number", axes, "Correct it.")
    elif kind == "binary":
        bad = observed & (u != 0) & (u != 1)
        _refuse(bad, "u", u, "0 or 1", axes, "Code the two outcomes as 0 and 1.")
    elif num_classes is not None:
        bad = observed & ~((u >= 0) & (u < num_classes) & (u == u.floor()))
        expected = f"a class number, 0 to {num_classes - 1}"
        _refuse(bad, "u", u, expected, axes, "Pass num_classes if there are more.")
    todo = "Steps that take no time have to be merged into one."
    bad = ~((time_step > 0) & time_step.isfinite())
    _refuse(bad, "time_step", time_step, "a positive number", axes, todo)


def largest(dtype: torch.dtype) -> float:
    """Return the largest number of a filter; its inverse is the least precision.

    Args:
        dtype: a floating type.

    Returns:
        The number.
    """
    return 1e100 if dtype == torch.float64 else 1e15


def without_unsound(
    parameters: HGFParameters, inputs: HGFInputs, kind: Kind
) -> tuple[HGFParameters, HGFInputs, Tensor]:
    """Replace what no filter can run on, so that derivatives stay finite.

    Within inference a proposal may be NaN, infinite or without a positive precision.
    Its log-density is minus infinity; what it is replaced by has no effect. Where a
    derivative overflows though the density has not, it counts as 0.

    Args:
        parameters: of any values.
        inputs: of any values.
        kind: of input.

    Returns:
        Both with other values where they have to be, and which series they are,
        `(*batch,)`, without the axis of classes.
    """
    limit = largest(parameters.omega.dtype)
    # all in one tensor, so that each operation runs once
    noise = parameters.input_precision.unsqueeze(-1)
    given = [
        *parameters._replace(pi0=parameters.pi0[..., :0])[:-1],
        parameters.pi0,
        noise,
    ]
    flat = _FiniteGradient.apply(torch.cat(given, -1))
    precisions = flat[..., -noise.shape[-1] - parameters.pi0.shape[-1] :]
    # NaN is not at most the limit either
    good = (flat.abs() <= limit).all(-1, keepdim=True)
    good = good & (precisions >= 1 / limit).all(-1, keepdim=True)
    leaves = torch.where(good, flat, 1.0).split([x.shape[-1] for x in given], -1)
    replaced = HGFParameters._make([*leaves[:-2], leaves[-1][..., 0]])
    u, step = inputs.u, inputs.time_step
    good_input = (u.abs() <= limit) & (step > 0) & (step <= limit)
    if kind == "categorical":
        good_input = good_input & (~inputs.observed | (u.sum(-2, keepdim=True) == 1))
    elif kind == "binary":
        good_input = good_input & ((u == 0) | (u == 1))
    bad = ~(good[..., 0] & good_input.all(-1))
    if kind == "categorical":
        bad = bad.any(-1)
    u, step = torch.where(good_input, u, 0.0), torch.where(good_input, step, 1.0)
    return (
        replaced._replace(pi0=leaves[-2]),
        inputs._replace(u=u, time_step=step),
        bad,
    )


class _FiniteGradient(torch.autograd.Function):
    """The identity; derivatives that have overflowed count as 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.where(grads[0].isfinite(), grads[0], 0.0)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].view_as(tangents[0])
