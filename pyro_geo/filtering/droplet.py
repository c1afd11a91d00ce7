r"""One measurement update of a bounded prior, exact by quadrature.

The prior is a droplet: a normal cut to the ellipsoid
:math:`(x - m)^\top P^{-1} (x - m) \le \rho^2`. The likelihood carries at most :math:`c`
nats. Where the information of a measurement is at least :math:`c` on the whole droplet,
the posterior is the prior, to the bit: the measurement is severed.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_choice, check_shape
from pyro_geo.errors import EmptyDropletError
from pyro_geo.filtering._droplet_moments import (
    Problem,
    double,
    moments_of,
    second_moment,
)

__all__ = [
    "DropletUpdate",
    "least_information",
    "scalar_droplet_update",
    "severing_distance",
    "vector_droplet_update",
]

Likelihood = Literal["capped", "truncated"]

_HALVINGS = 100


class DropletUpdate(NamedTuple):
    """A droplet after a measurement.

    Attributes:
        mean: centre, `(..., n)`.
        scale: matrix of the new droplet, `(..., n, n)`, whose normal, cut at the same
            radius, has the posterior's covariance.
        covariance: of the posterior, `(..., n, n)`.
        log_evidence: logarithm of the mean likelihood under the prior, `(...)`; the
            likelihood is 1 where the measurement fits best.
        severed: whether nothing was learned, `(...)`.
    """

    mean: Tensor
    scale: Tensor
    covariance: Tensor
    log_evidence: Tensor
    severed: Tensor


def scalar_droplet_update(
    m: Tensor,
    P: Tensor,
    H: Tensor,
    nu: Tensor,
    R: Tensor | float,
    cap_nats: Tensor | float = math.inf,
    radius: Tensor | float = math.inf,
    *,
    likelihood: Likelihood = "capped",
) -> DropletUpdate:
    r"""Update a droplet by one scalar measurement :math:`y = Hx + v`.

    With :math:`s^2 = H P H^\top`, :math:`g = P H^\top / s` and :math:`u` the place in
    the direction of the measurement, the likelihood is

    .. math:: \exp(-\min(\tfrac{(\nu - s u)^2}{2R}, c))

    and the posterior has the moments :math:`m' = m + g\, E u`, :math:`C' =
    E[k_{n-1}] (P - g g^\top) + \mathrm{Var}(u)\, g g^\top`, found by Gauss-Legendre
    quadrature between all kinks. The posterior is then replaced by the droplet of the
    same radius and moments: after the first step the ball is a calibrated summary, no
    guaranteed enclosure. Without cap and radius this is the Kalman filter. It is a
    reference: :class:`BoundedTracker` is what to track with.

    Args:
        m: centre, `(..., n)`.
        P: matrix of the droplet, `(..., n, n)`; its covariance without a cut.
        H: row of the measurement, `(..., n)`.
        nu: innovation :math:`y - H m`, `(...)`; one that is not finite is severed.
        R: variance of the noise, `(...)`.
        cap_nats: the cap :math:`c`, above 0; infinite for a normal likelihood.
        radius: the radius :math:`\rho`, above 0; infinite for a normal prior.
        likelihood: `"capped"`, or `"truncated"` for noise that is cut at
            :math:`c`, zero beyond. Cut noise is less robust than a Kalman filter.

    Returns:
        The new droplet, in the type of `m`; computed in double precision.

    Raises:
        EmptyDropletError: with truncated noise, no state of the droplet can have
            caused the measurement. A wrong shape is a
            :class:`~pyro_geo.errors.ShapeError`, an option out of range a
            :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Derived; context in Rodriguez (2026), arXiv 2603.13613.

    Example:
        >>> one = torch.ones(1, 1)
        >>> prior, y = (one[0] * 0, one, one[0]), torch.tensor(10.0)
        >>> kalman = scalar_droplet_update(*prior, y, 0.25)
        >>> capped = scalar_droplet_update(*prior, y, 0.25, 4.0, 3.0)
        >>> kalman.mean.item(), capped.mean.item(), capped.severed.item()
        (8.0, 0.0, True)
    """
    check_choice("likelihood", likelihood, ("capped", "truncated"))
    n = m.shape[-1] if m.dim() else 0
    check_shape("m", m.shape, "(..., n)", good=n > 0)
    check_shape("P", P.shape[-2:], (n, n))
    check_shape("H", H.shape[-1:], (n,))
    problem = Problem.of(m, P, H, nu, R, cap_nats, radius)
    reach = severing_distance(H, P, R, cap_nats, radius)
    severed = ~(nu.abs() < reach) if likelihood == "capped" else ~nu.isfinite()
    if likelihood == "truncated":
        empty = ~severed & (nu.abs() >= reach)
        if bool(empty.any()):
            raise EmptyDropletError(
                "no state of the prior can have caused the measurement",
                where="argument nu",
                found=nu[empty.expand(nu.shape)].flatten()[:4].tolist(),
                expected="an innovation within severing_distance",
                todo="Use likelihood='capped', which severs such a measurement.",
            )
    moments = moments_of(problem, severed, n, truncated=likelihood == "truncated")
    g = problem.g
    outer = g[..., :, None] * g[..., None, :]
    rest = problem.P - outer
    covariance = moments.inner[..., None, None] * rest
    covariance = covariance + moments.variance[..., None, None] * outer
    shrink = second_moment(n, problem.radius**2)[..., None, None]
    keep = severed[..., None]
    mean = problem.m + moments.mean[..., None] * g
    evidence = torch.where(nu.isfinite(), -problem.cap, 0.0)
    evidence = torch.where(severed, evidence, moments.log_evidence)
    prior_covariance = shrink * problem.P
    shape = mean.shape
    return DropletUpdate(
        torch.where(keep, m.expand(shape), mean.to(m)),
        torch.where(keep[..., None], P.expand(*shape, n), (covariance / shrink).to(P)),
        torch.where(keep[..., None], prior_covariance, covariance).to(P),
        evidence.to(m),
        severed,
    )


def vector_droplet_update(
    m: Tensor,
    P: Tensor,
    H: Tensor,
    nu: Tensor,
    R: Tensor,
    cap_nats: Tensor | float = math.inf,
    radius: Tensor | float = math.inf,
) -> DropletUpdate:
    r"""Update a droplet by the components of a measurement, one after the other.

    With :math:`R = L L^\top`, component :math:`i` of the whitened measurement is

    .. math:: L^{-1} (y - h(m)) = L^{-1} H (x - m) + e, \qquad e \sim N(0, I)

    and :func:`scalar_droplet_update` takes them in turn, each at the centre that the
    one before has left. Each carries at most `cap_nats`, the whole at most :math:`k`
    times that, and each is severed alone: what one sensor of several says is refused
    and the others are heard. Without cap and radius this is the Kalman filter, in any
    order. Otherwise the order of the components counts, since each is followed by a
    droplet of its own and the Cholesky factor explains a component by those before it:
    put the ones that are trusted most first. A joint update with one cap would refuse
    the components together; :func:`least_information` says whether it would.

    Args:
        m: centre, `(..., n)`.
        P: matrix of the droplet, `(..., n, n)`.
        H: Jacobian of the measurement, `(..., k, n)`, the same for all components.
        nu: innovation :math:`y - h(m)`, `(..., k)`; a component that is not finite is
            severed, and the others are taken as if it had not been measured.
        R: covariance of the noise, `(..., k, k)`.
        cap_nats: of each component, see :func:`scalar_droplet_update`.
        radius: of the droplet.

    Returns:
        The new droplet; severed where every component was.

    Example:
        >>> eye = torch.eye(2)
        >>> new = vector_droplet_update(torch.zeros(2), eye, eye, torch.ones(2), eye)
        >>> new.mean, new.covariance.diagonal()
        (tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000]))
    """
    count = H.shape[-2] if H.dim() > 1 else 0
    check_shape("H", H.shape, "(..., k, n)", good=count > 0)
    check_shape("R", R.shape[-2:], (count, count))
    check_shape("nu", nu.shape[-1:], (count,))
    known = nu.isfinite()
    both = known[..., :, None] & known[..., None, :]
    # a component without a number must not tell of the others
    noise = torch.where(both, R.double(), torch.eye(count).to(R.device, torch.float64))
    tril = torch.linalg.cholesky(noise)
    rows = torch.linalg.solve_triangular(tril, H.double(), upper=False)
    gap = torch.where(known, nu.double(), 0.0)[..., None]
    white = torch.linalg.solve_triangular(tril, gap, upper=False)[..., 0]
    white = torch.where(known, white, math.nan)
    start = centre = m.double()
    scale = P.double()
    evidence, severed, update = torch.zeros(()), torch.tensor(True), None
    for i in range(count):
        row = rows[..., i, :]
        left = white[..., i] - (row * (centre - start)).sum(-1)
        update = scalar_droplet_update(centre, scale, row, left, 1.0, cap_nats, radius)
        centre, scale = update.mean, update.scale
        evidence, severed = evidence + update.log_evidence, severed & update.severed
    assert update is not None
    return DropletUpdate(
        centre.to(m),
        scale.to(P),
        update.covariance.to(P),
        evidence.to(m),
        severed,
    )


def severing_distance(
    H: Tensor,
    P: Tensor,
    R: Tensor | float,
    cap_nats: Tensor | float,
    radius: Tensor | float,
) -> Tensor:
    r"""Innovation from which on a scalar measurement is severed.

    .. math:: |\nu| \ge \rho s + \sqrt{2 c R}, \qquad s^2 = H P H^\top

    Args:
        H: row of the measurement, `(..., n)`.
        P: matrix of the droplet, `(..., n, n)`.
        R: variance of the noise, `(...)`.
        cap_nats: the cap :math:`c`.
        radius: the radius :math:`\rho`.

    Returns:
        The distance, `(...)`, in double precision.

    Example:
        >>> one = torch.ones(1, 1)
        >>> round(float(severing_distance(one[0], one, 0.25, 4.0, 3.0)), 4)
        4.4142
    """
    row, matrix = H.double(), P.double()
    s = (row * (matrix @ row[..., None])[..., 0]).sum(-1).sqrt()
    noise = double(R, s)
    return double(radius, s) * s + (2 * double(cap_nats, s) * noise).sqrt()


def least_information(
    H: Tensor, P: Tensor, nu: Tensor, R: Tensor, radius: Tensor | float
) -> Tensor:
    r"""Least information of a vector measurement on a droplet.

    .. math:: \min_{|v| \le \rho} \tfrac12 |R^{-1/2} (\nu - H L v)|^2, \qquad
        L L^\top = P

    A measurement whose cap is no larger is severed. One singular value decomposition
    and the root of one secular equation; differentiable once.

    Args:
        H: Jacobian of the measurement, `(..., k, n)`.
        P: matrix of the droplet, `(..., n, n)`.
        nu: innovation, `(..., k)`.
        R: covariance of the noise, `(..., k, k)`.
        radius: the radius :math:`\rho`, finite.

    Returns:
        Nats, `(...)`, in double precision.

    Example:
        >>> eye = torch.eye(2)
        >>> least_information(eye, eye, torch.tensor([5.0, 0.0]), eye, 3.0).item()
        2.0
    """
    noise = torch.linalg.cholesky(R.double())
    jacobian = H.double() @ torch.linalg.cholesky(P.double())
    a = torch.linalg.solve_triangular(noise, jacobian, upper=False)
    b = torch.linalg.solve_triangular(noise, nu.double()[..., None], upper=False)
    rho = double(radius, a)
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        place = (u.mT @ b)[..., 0]  # (..., min(k, n))
        weight = _secular_root(s, place, rho)[..., None]
        scale = torch.where(s > 0, s / (s**2 + weight), 0.0)
        v = vh.mT @ (scale * place)[..., None]
    # the derivative of a minimum is that of the function where it is attained
    return 0.5 * (b - a @ v).square().sum((-2, -1))


def _secular_root(s: Tensor, place: Tensor, radius: Tensor) -> Tensor:
    """Multiplier of the ball: zero where the unconstrained minimum is inside."""

    def length(weight: Tensor) -> Tensor:
        terms = torch.where(s > 0, s * place / (s**2 + weight[..., None]), 0.0)
        return terms.square().sum(-1).sqrt()

    low = torch.zeros_like(place[..., 0] * radius)
    high = (s * place).square().sum(-1).sqrt() / radius
    inside = length(low) <= radius
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        longer = length(middle) > radius
        low, high = torch.where(longer, middle, low), torch.where(longer, high, middle)
    return torch.where(inside, 0.0, 0.5 * (low + high))
