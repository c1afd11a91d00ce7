"""What is wrong with observed data, and with the parameters of a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.pyro import mask_of
from pyro_geo.density.structure import is_deterministic
from pyro_geo.errors import ModelError, ShapeError

__all__ = ["bad_parameter", "check_observed", "not_finite"]

_WRAPPERS = (
    torch.distributions.Independent,
    dist.MaskedDistribution,
    dist.ExpandedDistribution,
)


def check_observed(sites: Mapping[str, Any], *, supports: bool) -> None:
    """Refuse observed data that no value of the latents can make right.

    Args:
        sites: random sites of a trace, by name.
        supports: whether data must lie in the support of their distribution, as
            Pyro demands where its validation is on.

    Raises:
        ModelError: data are no tensor. Data outside a support that does not depend on
            the parameters of their distribution are one too, and broadcasting that
            would count a datum several times is a
            :class:`~pyro_geo.errors.ShapeError`.
    """
    for name, site in sites.items():
        if not site["is_observed"]:
            continue
        if not hasattr(site["value"], "shape"):
            raise ModelError(
                "observed data are no tensor",
                where=f"site {name!r}",
                found=f"{type(site['value']).__name__} {str(site['value'])[:50]!r}",
                expected="a tensor",
                todo="Pass obs=torch.as_tensor(...), or None to leave it unobserved.",
            )
        if is_deterministic(site) or not isinstance(site["value"], Tensor):
            continue
        _check_not_repeated(name, site)
        if supports:
            _check_inside(name, site)


def _check_not_repeated(name: str, site: Mapping[str, Any]) -> None:
    """Refuse `(n, 1)` against `(n,)`, which makes n squared terms of n data."""
    fn, shape = site["fn"], site["value"].shape
    data = shape[: len(shape) - len(fn.event_shape)]
    try:  # torch's own would import SymPy
        both = np.broadcast_shapes(tuple(data), tuple(fn.batch_shape))
    except ValueError:
        return  # the log-probability says so
    if both == tuple(data) or site["value"].numel() == 1:
        return
    plates = {
        frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized
    }
    before = (1,) * (len(both) - len(data)) + tuple(data)
    # a plate says that the datum is meant for each of its elements
    repeated = [
        axis - len(both)
        for axis, size in enumerate(both)
        if before[axis] != size and plates.get(axis - len(both)) != size
    ]
    if not repeated and both == tuple(fn.batch_shape):
        return
    raise ShapeError(
        "broadcasting counts data several times",
        where=f"site {name!r}",
        found=f"data of {tuple(shape)} and a distribution of {tuple(fn.shape())}, "
        f"together {both + tuple(fn.event_shape)}",
        expected="data of the shape of their distribution",
        todo="Take an axis of length one off the data or the parameters, with "
        "squeeze(-1) say.",
    )


def _check_inside(name: str, site: Mapping[str, Any]) -> None:
    fn, value = site["fn"], site["value"]
    base, mask = fn, site["mask"]
    while isinstance(base, _WRAPPERS):
        if isinstance(base, dist.MaskedDistribution):
            own = mask_of(base)
            mask = own if mask is None else mask & own
        base = base.base_dist
    # a support that depends on parameters may hold the data at other latents
    support = getattr(type(base), "support", None)
    fixed = isinstance(support, constraints.Constraint)
    if not fixed or constraints.is_dependent(support) or support.event_dim:
        return
    outside = ~support.check(value) & ~value.isnan()  # starts report NaN
    if mask is not None:
        axes = (1,) * len(fn.event_shape)
        kept = torch.as_tensor(mask)
        outside = outside & kept.reshape((*kept.shape, *axes))
    if not outside.any():
        return
    first = value.expand(outside.shape)[outside][0]
    raise ModelError(
        "observed data are outside their support",
        where=f"site {name!r}",
        found=f"{int(outside.sum())} of {outside.numel()} values, {first.item()} "
        "the first",
        expected=f"values of a {type(base).__name__}, {support}",
        todo="Recode the data, mask those that are missing, or choose a distribution "
        "that has such values.",
    )


def bad_parameter(fn: Any) -> str:
    """Name a parameter of a distribution that is out of its range.

    Args:
        fn: a distribution, made without validation.

    Returns:
        Its name and what it should be; empty where all are good.

    Example:
        >>> bad_parameter(dist.Normal(0.0, -1.0, validate_args=False))
        'scale not in GreaterThan(lower_bound=0.0)'
    """
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    for name, constraint in getattr(fn, "arg_constraints", {}).items():
        # what is computed from the others when it is asked for is not looked at
        if constraints.is_dependent(constraint) or name not in vars(fn):
            continue
        if not bool(constraint.check(getattr(fn, name)).all()):
            return f"{name} not in {constraint}"
    return ""


def not_finite(data: tuple[Tensor, ...]) -> str:
    """Say which of the tensors passed to a model hold NaN or infinity.

    Args:
        data: tensors among the arguments, in their order.

    Returns:
        A sentence; empty where all are finite.

    Example:
        >>> not_finite((torch.ones(2), torch.tensor([1.0, float("nan")])))
        'Of the tensors passed, number 2 of shape (2,) has 1 value that is not finite.'
    """
    for number, x in enumerate(data, 1):
        if bad := int((~x.isfinite()).sum()):
            values = "1 value that is" if bad == 1 else f"{bad} values that are"
            return (
                f"Of the tensors passed, number {number} of shape {tuple(x.shape)} "
                f"has {values} not finite."
            )
    return ""
