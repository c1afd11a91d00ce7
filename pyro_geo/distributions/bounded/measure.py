"""The bounded version of a distribution, whichever it is."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, distributions

from pyro_geo._compat.pyro import mask_of
from pyro_geo.checks import check, check_choice, handled_types
from pyro_geo.distributions.bounded._place import quantile_bases
from pyro_geo.distributions.bounded.laplace import BoundedLaplace
from pyro_geo.distributions.bounded.level import BoundedLevelSet
from pyro_geo.distributions.bounded.normal import (
    BoundedMultivariateNormal,
    BoundedNormal,
)
from pyro_geo.distributions.bounded.student import (
    BoundedMultivariateStudentT,
    BoundedStudentT,
)
from pyro_geo.distributions.bounded.univariate import BoundedGamma, BoundedUnivariate
from pyro_geo.errors import BallSpecError, UnsupportedError

__all__ = ["BoundedMeasure"]

Separation = Literal["auto", "mahalanobis", "tail", "surprisal"]


class _Spec(NamedTuple):
    """A ball, as a user gives it."""

    radius: float | Tensor | None
    nats: float | Tensor | None
    mass: float | Tensor | None
    separation: Separation
    kappa: float
    validate_args: bool | None

    def sized(self) -> dict[str, Any]:
        """Options that every bounded distribution has."""
        return {
            "radius": self.radius,
            "nats": self.nats,
            "mass": self.mass,
            "kappa": self.kappa,
            "validate_args": self.validate_args,
        }

    def elliptical(self) -> dict[str, Any]:
        """Options of a base whose information is half of a squared length."""
        kind = "tail" if self.separation == "tail" else "mahalanobis"
        return {**self.sized(), "separation": kind}


def BoundedMeasure(  # noqa: N802 - it makes a distribution, as a class does
    base: Any,
    *,
    radius: float | Tensor | None = None,
    nats: float | Tensor | None = None,
    mass: float | Tensor | None = None,
    separation: Separation = "auto",
    kappa: float = 0.0,
    validate_args: bool | None = None,
) -> Any:
    r"""Cut a distribution off at a ball of information, and weight it by a field.

    .. math:: \frac{d\pi}{d\,\text{base}} = \frac{1}{Z}
        \left(1 - \frac{I}{c}\right)_+^\kappa

    Normal, Student and Cauchy bases, also multivariate ones, get an interval or an
    ellipsoid around their centre, Laplace ones an interval. All other distributions of
    one number get their central set. `Independent` bases are cut entry by entry: a box.
    Give `mass` if in doubt: it means the same for every base and in every dimension.

    Args:
        base: Normal, MultivariateNormal, LowRankMultivariateNormal, StudentT, Cauchy,
            MultivariateStudentT, Laplace, Exponential, Gamma, InverseGamma, Beta,
            LogNormal, HalfNormal, HalfCauchy, Uniform, Gumbel, Weibull, or another
            monotone transform; expanded, `Independent` and masked ones too.
        radius: of the ball in whitened coordinates, for a base with a centre; a number
            or `(*batch,)`.
        nats: largest separation in the ball; a number or `(*batch,)`.
        mass: probability of the ball under the base; a number or `(*batch,)`.
        separation: what nats count. `"mahalanobis"`, half of the squared length, for
            a base with a centre; `"tail"`, minus the log-probability of lying further
            out; `"surprisal"`, how much the log-density is below its maximum;
            `"auto"` for the first where there is a centre, and the second elsewhere.
            See :mod:`pyro_geo.geometry.separation`.
        kappa: power of the field, a number of at least 0; 0 is the hard ball.
        validate_args: whether arguments are checked; None for torch's default.

    Returns:
        A bounded distribution. A size that is missing, given twice or out of range
        raises :class:`~pyro_geo.errors.BallSpecError`, a base that is not supported
        :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> import pyro.distributions as dist
        >>> normal = BoundedMeasure(dist.Normal(0.0, 1.0), nats=2.0, separation="tail")
        >>> logs = BoundedMeasure(dist.LogNormal(0.0, 1.0), nats=2.0)
        >>> normal.support.upper_bound, logs.support.upper_bound.log()  # the same set
        (tensor(1.4934), tensor(1.4934))
    """
    choices = ("auto", "mahalanobis", "tail", "surprisal")
    check_choice("separation", separation, choices)
    spec = _Spec(radius, nats, mass, separation, kappa, validate_args)
    return _bounded(base, spec)


@singledispatch
def _bounded(base: Any, spec: _Spec) -> Any:
    names = ", ".join(sorted({*handled_types(_bounded), *quantile_bases()}))
    made = not isinstance(base, type)
    raise UnsupportedError(
        "a base has no bounded version",
        where="argument base",
        found=type(base).__name__ if made else f"the class {base.__name__}",
        expected=f"one of {names}",
        todo="Write it as a monotone transform of one of them."
        if made
        else f"Pass a distribution with its parameters, {base.__name__}(...).",
    )


# -- wrappers --------------------------------------------------------------------------


@_bounded.register
def _(base: distributions.Independent, spec: _Spec) -> Any:
    inner = _bounded(base.base_dist, spec)
    return inner.to_event(base.reinterpreted_batch_ndims)


@_bounded.register
def _(base: dist.MaskedDistribution, spec: _Spec) -> Any:
    return _bounded(base.base_dist, spec).mask(mask_of(base))


@_bounded.register
def _(base: dist.ExpandedDistribution, spec: _Spec) -> Any:
    return _bounded(base.base_dist, spec).expand(base.batch_shape)


# -- bases with a centre ---------------------------------------------------------------


@_bounded.register
def _(base: distributions.Normal, spec: _Spec) -> BoundedNormal:
    return BoundedNormal(base.loc, base.scale, **spec.elliptical())


@_bounded.register
def _(base: distributions.MultivariateNormal, spec: _Spec) -> BoundedMultivariateNormal:
    return BoundedMultivariateNormal(base.loc, base.scale_tril, **spec.elliptical())


@_bounded.register
def _(
    base: distributions.LowRankMultivariateNormal, spec: _Spec
) -> BoundedMultivariateNormal:
    return BoundedMultivariateNormal(base.loc, base.scale_tril, **spec.elliptical())


@_bounded.register
def _(base: distributions.StudentT, spec: _Spec) -> BoundedStudentT:
    options = _student(spec, base.df, 1)
    return BoundedStudentT(base.df, base.loc, base.scale, **options)


@_bounded.register
def _(base: distributions.Cauchy, spec: _Spec) -> BoundedStudentT:
    options = _student(spec, torch.ones_like(base.loc), 1)
    return BoundedStudentT(1.0, base.loc, base.scale, **options)


@_bounded.register
def _(base: dist.MultivariateStudentT, spec: _Spec) -> BoundedMultivariateStudentT:
    options = _student(spec, base.df, base.event_shape[0])
    scale_tril: Any = base.scale_tril
    return BoundedMultivariateStudentT(base.df, base.loc, scale_tril, **options)


def _student(spec: _Spec, df: Tensor, dim: int) -> dict[str, Any]:
    """Options of a Student base: the surprisal is that of its own tails."""
    options = spec.elliptical()
    if spec.separation != "surprisal" or spec.nats is None:
        return options
    only = spec.radius is None and spec.mass is None
    found = "nats and another size"
    check(only, "nats", found, "one size", error=BallSpecError)
    good = isinstance(spec.nats, Tensor) or spec.nats > 0
    check(good, "nats", spec.nats, "above 0", error=BallSpecError)
    # (df + d) / 2 log(1 + r^2 / df) nats below the density at the centre
    radius = torch.sqrt(df * torch.expm1(2 * torch.as_tensor(spec.nats) / (df + dim)))
    return {**options, "radius": radius, "nats": None}


@_bounded.register
def _(base: distributions.Laplace, spec: _Spec) -> BoundedLaplace:
    expected = "tail, surprisal or auto, which are one for a Laplace distribution"
    good = spec.separation != "mahalanobis"
    check(good, "separation", spec.separation, expected, error=BallSpecError)
    return BoundedLaplace(base.loc, base.scale, **spec.sized())


# -- bases with tails ------------------------------------------------------------------


def _level_set(base: Any, spec: _Spec) -> BoundedLevelSet | None:
    """The set of highest density, where surprisals are asked for."""
    if spec.separation == "surprisal":
        good = spec.nats is not None and spec.radius is None and spec.mass is None
        sizes = {"radius": spec.radius, "nats": spec.nats, "mass": spec.mass}
        found = [name for name, size in sizes.items() if size is not None]
        expected = "nats alone, for a surprisal"
        check(good, "nats", found or "no size", expected, error=BallSpecError)
        assert spec.nats is not None
        return BoundedLevelSet(
            base, nats=spec.nats, kappa=spec.kappa, validate_args=spec.validate_args
        )
    good = spec.separation != "mahalanobis"
    expected = f"tail, surprisal or auto: {type(base).__name__} has no centre"
    check(good, "separation", spec.separation, expected, error=BallSpecError)
    return None


@_bounded.register
def _(base: distributions.Gamma, spec: _Spec) -> BoundedGamma | BoundedLevelSet:
    return _level_set(base, spec) or BoundedGamma(
        base.concentration, base.rate, **spec.sized()
    )


@_bounded.register(distributions.Exponential)
@_bounded.register(distributions.Beta)
@_bounded.register(distributions.HalfNormal)
@_bounded.register(distributions.HalfCauchy)
@_bounded.register(distributions.Uniform)
@_bounded.register(distributions.Gumbel)
@_bounded.register(distributions.TransformedDistribution)
def _(base: Any, spec: _Spec) -> BoundedUnivariate | BoundedLevelSet:
    return _level_set(base, spec) or BoundedUnivariate(base, **spec.sized())
