"""The arguments of a search, checked and brought to their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import BoundsError, ConfigurationError

__all__ = ["Domain", "GivenNoise", "domain_of", "noise_of"]

Real = Tensor | float | None
GivenNoise = Tensor | Callable[[int], Tensor] | None


class Domain(NamedTuple):
    """Where a search takes place.

    Attributes:
        lower: bounds, `(problems, dim)` or `(1, dim)`; infinite where there is none.
        upper: bounds.
        mean: centre of the first distribution, `(problems, dim)`.
        std: its standard deviations, `(problems, dim)`.
        means: centres of the instances where they are given, `(problems, instances,
            dim)`; else None.
    """

    lower: Tensor
    upper: Tensor
    mean: Tensor
    std: Tensor
    means: Tensor | None


def domain_of(
    lower: Real,
    upper: Real,
    mean: Real,
    std: Real,
    batch_shape: tuple[int, ...],
    num_instances: int,
) -> Domain:
    """Check where a search takes place, and fill in what was left out.

    Args:
        lower: lower bounds, a number, `(dim,)` or `(*batch_shape, dim)`; None for none.
        upper: upper bounds.
        mean: first centre, a number, `(dim,)`, `(*batch_shape, dim)` or one for each
            instance, `(*batch_shape, instances, dim)`; the middle of the box if None.
        std: first standard deviations, like the bounds; a quarter of the range if None.
        batch_shape: shape of the problems.
        num_instances: how many instances there are.

    Returns:
        All of them with their shapes.

    Raises:
        BoundsError: nothing says how many dimensions there are.
    """
    given = [x for x in (mean, lower, upper, std) if isinstance(x, Tensor) and x.ndim]
    if not given:
        raise BoundsError(
            "the number of dimensions is unknown",
            where="arguments lower, upper, mean, std",
            found="numbers or nothing",
            expected="at least one tensor whose last axis is the dimensions",
            todo="Pass mean, or the bounds, as a tensor of shape (dim,).",
        )
    like = given[0]
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    dim = like.shape[-1]
    problems = math.prod(batch_shape)

    def tensor(value: Real, default: float) -> Tensor:
        value = default if value is None else value
        return torch.as_tensor(value, dtype=dtype, device=like.device).detach()

    def rows(name: str, value: Tensor) -> Tensor:
        whole = (*batch_shape, dim)
        good = value.shape in ((), (1,), (dim,), whole)
        check_shape(name, value.shape, f"{(dim,)} or {whole}", good=good)
        if value.ndim <= 1:
            return value.expand(1, dim)
        return value.reshape(problems, dim)

    low, high = rows("lower", tensor(lower, -math.inf)), tensor(upper, math.inf)
    high = rows("upper", high)
    low, high = [x.contiguous() for x in torch.broadcast_tensors(low, high)]
    check(bool((low < high).all()), "lower", low, "below upper", error=BoundsError)
    boxed = low.isfinite() & high.isfinite()
    centres = None
    if mean is None:
        check(
            bool(boxed.all()),
            "mean",
            None,
            "a start, without bounds",
            error=BoundsError,
        )
        middle = 0.5 * (low + high)
    else:
        middle = tensor(mean, 0.0)
        if middle.ndim == len(batch_shape) + 2:
            check_shape("mean", middle.shape, (*batch_shape, num_instances, dim))
            centres = middle.reshape(problems, num_instances, dim)
            middle = centres.mean(1)
        else:
            middle = rows("mean", middle)
    if std is None:
        check(
            bool(boxed.all()), "std", None, "given, without bounds", error=BoundsError
        )
        spread = 0.25 * (high - low)
    else:
        spread = rows("std", tensor(std, 0.0))
    good = bool((spread > 0).all() and spread.isfinite().all())
    check(good, "std", spread, "finite and above zero", error=BoundsError)
    for point in (middle, *(() if centres is None else centres.unbind(1))):
        inside = bool(((low < point) & (point < high)).all())
        check(inside, "mean", point, "strictly inside the bounds", error=BoundsError)
    middle, spread = middle.expand(problems, dim), spread.expand(problems, dim)
    return Domain(low, high, middle, spread, centres)


def noise_of(
    noise: GivenNoise,
    like: Tensor,
    batch_shape: tuple[int, ...],
    shares: list[int],
    trunc: float,
) -> tuple[Callable[[int], Tensor] | None, float]:
    """Check the noise that replaces draws.

    Args:
        noise: `(iterations, *batch_shape, rows, dim)`, or with equal populations
            `(iterations, *batch_shape, instances, pop_size, dim)`; or a function of
            the iteration that gives that of one.
        like: a tensor of the search, `(..., dim)`.
        batch_shape: shape of the problems.
        shares: population of each instance.
        trunc: where noise is cut.

    Returns:
        What gives the noise of an iteration, `(problems, rows, dim)`, and the number of
        iterations that there is noise for.
    """
    if noise is None:
        return None, math.inf
    facts = (like, batch_shape, shares, trunc)
    if callable(noise):
        draw = noise
        return lambda iteration: _checked(draw(iteration)[None], *facts)[0], math.inf
    flat = _checked(noise, *facts)
    return flat.__getitem__, len(flat)


def _checked(
    noise: Tensor,
    like: Tensor,
    batch_shape: tuple[int, ...],
    shares: list[int],
    trunc: float,
) -> Tensor:
    """Check noise and bring it to its shape.

    Returns:
        The noise, `(iterations, problems, rows, dim)`.

    Raises:
        ConfigurationError: it is longer than the truncation allows.
    """
    dim, rows = like.shape[-1], sum(shares)
    shape = (*batch_shape, rows, dim)
    nested = (*batch_shape, len(shares), shares[0], dim)
    fits = tuple(noise.shape[1:]) in (shape, nested)
    good = fits and len(noise) >= 1 and rows == len(shares) * noise.shape[-2]
    good = good or (fits and tuple(noise.shape[1:]) == shape)
    check_shape("noise", noise.shape, f"(iterations, {shape})", good=good)
    if not bool((noise.abs() <= trunc).all()):
        raise ConfigurationError(
            "noise beyond the truncation",
            where="argument noise",
            found=float(noise.abs().max()),
            expected=f"at most {trunc:g} in size",
            todo="Draw it with pyro_geo.optim.cem.truncated_normal.",
        )
    flat = noise.detach().to(like)
    return flat.reshape(len(noise), math.prod(batch_shape), rows, dim)
