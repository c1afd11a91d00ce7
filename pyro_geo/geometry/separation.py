r"""How far a point is from the centre of a measure, in nats, and the balls it gives.

Every separation is zero at the centre and grows outward. A ball is the set where it is
at most :math:`c` nats. The separations differ in what leaves the ball unchanged:

============ ============================== =========================================
separation   invariant under                ball
============ ============================== =========================================
mahalanobis  affine maps                    ellipsoid of radius :math:`\sqrt{2c}`
tail         monotone maps (one dimension)  central set of mass :math:`1 - e^{-c}`
surprisal    none, unless the reference     set of highest density
             is carried along
delta        reparametrisation of a family  on the manifold of parameters
============ ============================== =========================================

A Mahalanobis ball of fixed nats loses all mass as the dimension grows: five nats hold
.993 of a normal in two dimensions and .032 in twenty. The tail does not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.errors import BallSpecError
from pyro_geo.geometry._field import FieldWeights, field_weights
from pyro_geo.geometry._overlap import log_overlap
from pyro_geo.geometry.tails import log_outside

__all__ = [
    "FieldWeights",
    "delta_radius",
    "delta_separation",
    "field_weights",
    "mahalanobis",
    "surprisal",
    "tail",
]

_NEAR_END = 1e-6  # of delta: there the separation is a divergence


def mahalanobis(x: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    r"""Divergence of two normals of one covariance whose means are `x` and `loc`.

    .. math:: I(x) = \tfrac12 (x - \mu)^\top \Sigma^{-1} (x - \mu)

    Args:
        x: points, `(..., dim)`.
        loc: centre, `(..., dim)`.
        scale_tril: Cholesky factor of the covariance, `(..., dim, dim)`.

    Returns:
        Nats, `(...)`.

    Example:
        >>> mahalanobis(torch.tensor([3.0, 4.0]), torch.zeros(2), torch.eye(2))
        tensor(12.5000)
    """
    shape = torch.broadcast_shapes(x.shape[:-1], loc.shape[:-1], scale_tril.shape[:-2])
    gap = (x - loc).expand(*shape, -1)[..., None]
    whitened = torch.linalg.solve_triangular(scale_tril, gap, upper=False)
    return 0.5 * whitened.square().sum((-2, -1))


def surprisal(
    base: Any, x: Tensor, *, mode: Tensor | None = None, reference: Any = None
) -> Tensor:
    r"""How much less likely a point is than the mode.

    .. math:: I(x) = \log \frac{p(\hat x)}{r(\hat x)} - \log \frac{p(x)}{r(x)}

    The mode :math:`\hat x` and the ball depend on the reference density :math:`r`:
    with the Lebesgue measure, a normal variable and its exponential have different
    balls.

    Args:
        base: the distribution.
        x: points.
        mode: where :math:`p/r` is largest; that of `base` if None, which is right
            for the Lebesgue measure alone.
        reference: distribution whose density is :math:`r`; the Lebesgue measure if
            None.

    Returns:
        Nats.

    Example:
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> surprisal(normal, torch.tensor([-2.0, 2.0]))
        tensor([2., 2.])
    """
    good = mode is not None or reference is None
    check(good, "mode", None, "the point of highest density to the reference")
    top = base.mode if mode is None else mode

    def log_density(value: Tensor) -> Tensor:
        log_prob = base.log_prob(value)
        return log_prob if reference is None else log_prob - reference.log_prob(value)

    return log_density(top) - log_density(x)


def tail(base: Any, x: Tensor) -> Tensor:
    r"""How unlikely it is to lie further out than a point.

    .. math:: I(x) = -\log P(\text{more extreme}) =
        -\log(2 \min(F(x), 1 - F(x)))

    for a number; for an elliptical vector, minus the log-probability of the outside of
    the ellipsoid through the point. A ball of :math:`c` nats is the central set of mass
    :math:`1 - e^{-c}`, for every base and in every dimension. A monotone map of the
    variable changes nothing.

    Args:
        base: a distribution of one number, see
            :func:`pyro_geo.geometry.tails.log_tails`; MultivariateNormal or
            MultivariateStudentT.
        x: points.

    Returns:
        Nats, at least 0, `(..., *batch)`. Another distribution is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    Example:
        >>> import pyro.distributions as dist
        >>> x = torch.tensor([-3.0, 0.0, 3.0])
        >>> tail(dist.Normal(0.0, 1.0), x), tail(dist.LogNormal(0.0, 1.0), x.exp())
        (tensor([5.9146, 0.0000, 5.9146]), tensor([5.9146, 0.0000, 5.9146]))
    """
    return 0.0 - log_outside(base, x)


def delta_separation(p: Any, q: Any, delta: float | Tensor) -> Tensor:
    r"""Delta-information separation of two members of one exponential family.

    .. math::
        I_\delta(p : q) = \frac{1 - A_\delta}{\delta (1 - \delta)}, \qquad
        A_\delta = \int p^\delta q^{1 - \delta}

    It tends to :math:`\mathrm{KL}(p \| q)` as :math:`\delta \to 1` and to
    :math:`\mathrm{KL}(q \| p)` as :math:`\delta \to 0`; one half gives four times the
    squared Hellinger distance. It does not change when the family is reparametrised.
    For :math:`0 < \delta < 1` it stays below :math:`1 / (\delta (1 - \delta))`; for
    others it is infinite where the blended natural parameter leaves its domain.

    Args:
        p: a distribution of torch or Pyro from an exponential family, also
            `Independent`. Normal, LogNormal, HalfNormal, MultivariateNormal,
            LowRankMultivariateNormal, Gamma (with Exponential and Chi2), InverseGamma,
            Beta, Dirichlet, Poisson, Geometric, NegativeBinomial, Bernoulli, Binomial,
            Categorical and OneHotCategorical.
        q: another of the same family. Binomials of different counts have no common
            family: NaN.
        delta: order; a tensor broadcasts against the batch shape.

    Returns:
        Nats, of the batch shape. Another distribution is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Derived after Rodriguez (2002), Entropic priors, physics/0201016.

    Example:
        >>> import pyro.distributions as dist
        >>> p, q = dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)
        >>> [round(float(delta_separation(p, q, d)), 4) for d in (0.0, 0.5, 1.0)]
        [0.5, 0.47, 0.5]
    """
    if not isinstance(delta, Tensor):
        check_number("delta", delta, -math.inf)
        delta = torch.tensor(delta, dtype=torch.float64)
        near = abs(float(delta * (1 - delta))) < _NEAR_END
        if near:
            return _divergence(p, q, float(delta.round()))
        return _separation(p, q, delta)
    width = delta * (1 - delta)
    near = width.abs() < _NEAR_END
    inside = _separation(p, q, torch.where(near, 0.5, delta))
    ends = torch.where(delta > 0.5, _divergence(p, q, 1.0), _divergence(p, q, 0.0))
    return torch.where(near, ends, inside)


def _separation(p: Any, q: Any, delta: Tensor) -> Tensor:
    width = delta * (1 - delta)
    overlap = log_overlap(p, q, delta)
    return -torch.expm1(overlap) / width.to(overlap)


def _divergence(p: Any, q: Any, end: float) -> Tensor:
    """Kullback-Leibler divergence: the slope of the log-overlap at an end of delta."""
    one = torch.tensor(1.0, dtype=torch.float64)
    sign = 2 * end - 1
    derivative = torch.func.jvp(lambda d: log_overlap(p, q, d), (end * one,), (one,))
    return sign * derivative[1]


def delta_radius(nats: float | Tensor, delta: float) -> Tensor:
    r"""Mahalanobis radius of the ball of normals within `nats` of a given one.

    .. math:: \rho^2 = -\frac{2 \log(1 - \delta (1 - \delta) c)}{\delta (1 - \delta)}

    For normals of one covariance each order gives the same ellipsoids, at other radii.
    Pass the result as `radius=` of a bounded normal.

    Args:
        nats: separation at the border, above 0.
        delta: order.

    Returns:
        The radius, of the shape of `nats`; of a number in double precision.

    Raises:
        BallSpecError: the ball would hold everything, since the separation never
            reaches `nats`. A radius that is not positive is one too.

    Example:
        >>> [round(float(delta_radius(2.0, order)), 4) for order in (0.5, 1.0)]
        [2.3548, 2.0]
    """
    check_number("delta", delta, -math.inf)
    c = nats if isinstance(nats, Tensor) else torch.tensor(nats, dtype=torch.float64)
    width = delta * (1 - delta)
    if is_validation_enabled():  # values are not read inside a traced model
        good = bool((c > 0).all())
        check(good, "nats", nats, "above 0", error=BallSpecError)
        cuts = width <= 0 or bool((c < 1 / width).all())
    else:
        cuts = True
    if abs(width) < _NEAR_END:
        return torch.sqrt(2 * c)
    if not cuts:
        raise BallSpecError(
            "the ball cuts nothing",
            where="argument nats",
            found=nats,
            expected=f"below {1 / width:g}, the largest separation of this order",
            todo="Pass fewer nats, or delta=1, where the separation has no bound.",
        )
    return torch.sqrt(-2 * torch.log1p(-width * c) / width)
