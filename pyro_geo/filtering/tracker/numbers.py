"""The numbers of a tracker: as they are, fixed, or drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering.tracker.belief import Parameters

if TYPE_CHECKING:
    from pyro_geo.filtering.tracker.tracker import BoundedTracker

__all__ = ["covariance", "fixed_numbers", "numbers_of"]


def covariance(R: Tensor | float, size: int) -> Tensor:
    """Check the covariance of a report.

    Args:
        R: the matrix, or one variance.
        size: numbers in a report.

    Returns:
        The matrix.
    """
    value = torch.as_tensor(R)
    value = value.to(torch.float64 if isinstance(R, float | int) else value.dtype)
    if value.dim() == 0:
        value = value * torch.eye(size, dtype=value.dtype, device=value.device)
    check_shape("R", value.shape, (size, size))
    check(value.is_floating_point(), "R", value.dtype, "floating numbers")
    even = bool(value.isfinite().all()) and torch.allclose(value, value.T)
    good = even and int(torch.linalg.cholesky_ex(value).info) == 0
    check(good, "R", value.tolist(), "a symmetric positive-definite matrix")
    return value


def numbers_of(
    owner: object, plain: Parameters, dtype: torch.dtype | None = None
) -> Parameters:
    """Read the numbers of a tracker from its attributes.

    Args:
        owner: has an attribute for each; those that are `PyroSample` are drawn.
        plain: numbers of the right shapes.
        dtype: floating type; as they are if None.

    Returns:
        The numbers.
    """
    values = [getattr(owner, name) for name in Parameters._fields]
    for name, value, like in zip(Parameters._fields, values, plain, strict=True):
        check_shape(name, value.shape, tuple(like.shape))
    return Parameters(*(value.to(dtype or value.dtype) for value in values))


def fixed_numbers(tracker: BoundedTracker) -> Parameters:
    """Read the numbers of a tracker, none of which may be random.

    Args:
        tracker: the tracker.

    Returns:
        The numbers, detached.

    Raises:
        ConfigurationError: one has a prior in place of a value.
    """
    tracer = poutine.trace()
    # a prior would be drawn from; the draw is thrown away
    with torch.random.fork_rng(devices=[]), torch.no_grad(), tracer:
        params = Parameters(*(p.detach().clone() for p in tracker.parameters_now()))
    if drawn := tracer.trace.stochastic_nodes:
        raise ConfigurationError(
            "a number of the tracker has a prior, and no value",
            where=f"attribute {drawn[0]}",
            found="a PyroSample",
            expected="a value",
            todo=f"Filter with tracker.given({{{drawn[0]!r}: value}}), the median of a "
            "guide or the mean of draws.",
        )
    return params
