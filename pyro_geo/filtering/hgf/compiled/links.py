"""What a state tells the level above about its volatility, and the adjoint of that.

A child has precision before `1 / alpha`, squared error plus posterior variance `beta`,
and log variance of its walk `gamma` at the parent's mean. All forms of the update are
written in quantities relative to one point, so that neither the logarithm of `alpha`
nor that of `beta` is needed: one logarithm and four exponentials make a step.
"""

from __future__ import annotations

from typing import NamedTuple

from pyro_geo.filtering.hgf.compiled.functions import exp, log, omega_start, rough_log
from pyro_geo.filtering.hgf.compiled.lanes import Lanes, huge, lifted, tiny, where

__all__ = [
    "Child",
    "Point",
    "child_of",
    "moved",
    "pull_to_child",
    "unbounded",
    "unbounded_adjoint",
]

LanesMap = tuple[Lanes, ...]


class Child(NamedTuple):
    """The message of a child at the parent's prediction."""

    w: Lanes  # share of the walk in the predicted variance
    v: Lanes  # 1 - w
    h: Lanes  # beta over the predicted variance, 1 + delta
    slope: Lanes  # half of kappa w delta


def child_of(alpha: Lanes, beta: Lanes, kappa: Lanes, walk: Lanes, p: Lanes) -> Child:
    """Write `walk` for e^gamma and `p` for 1 / (alpha + walk)."""
    w, h = walk * p, beta * p
    return Child(w, alpha * p, h, 0.5 * kappa * w * (h - 1.0))


class Point(NamedTuple):
    """Terms of the energy some way from a point where `w` and `beta / S` are known.

    S = alpha + e^y is larger than at that point by e^growth times `part`.
    """

    growth: Lanes
    part: Lanes
    scaled: Lanes  # ratio of both S, inverted
    w: Lanes


def moved(w: Lanes, v: Lanes, distance: Lanes) -> Point:
    """Move y by a distance; no exponential of a positive number is taken."""
    e = exp(-distance.abs())
    up = distance > 0.0
    part = where(up, v * e + w, v + w * e).at_least(tiny(w))
    inverse = 1.0 / part
    return Point(
        where(up, distance, 0.0),
        part,
        where(up, e, 1.0) * inverse,
        where(up, w, w * e) * inverse,
    )


def pull_to_child(
    child: Child, kappa: Lanes, d_slope: Lanes, d_w: Lanes, d_h: Lanes
) -> LanesMap:
    """Pull back to the logarithms of `alpha` and `beta`, to `kappa` and `gamma`."""
    half_delta = 0.5 * (child.h - 1.0)
    d_w = d_w + d_slope * kappa * half_delta
    by_h = (d_h + 0.5 * d_slope * kappa * child.w) * child.h
    by_alpha = -(d_w * child.w + by_h) * child.v
    d_gamma = child.w * (d_w * child.v - by_h)
    return by_alpha, by_h, d_slope * child.w * half_delta, d_gamma


class _Update(NamedTuple):
    """All that the update and its adjoint share."""

    kappa: Lanes
    child: Child
    variance: Lanes  # 1 / pi_hat
    # Laplace's approximation at the prediction
    inverse_pi_1: Lanes
    s: Lanes
    is_near: Lanes
    first: Point
    # the same at the mode for alpha -> 0
    width: Lanes
    omega: Lanes
    distance: Lanes  # omega - width
    q: Lanes
    w: Lanes
    v: Lanes
    inverse_d: Lanes
    is_concave: Lanes
    slope: Lanes
    inverse_pi_2: Lanes
    n: Lanes
    k: Lanes
    second: Point
    # the mixture of both
    b: Lanes
    b_rest: Lanes
    offset: Lanes
    mixed_variance: Lanes


def _wright_omega(beta: Lanes, gamma: Lanes, width: Lanes) -> tuple[Lanes, Lanes]:
    """Return omega(z) for z = log(beta width) + width - gamma, and omega - width."""
    limit = 1e300 if beta.bits == 64 else 1e37
    scale = (beta * width).at_least(1.0 / limit).at_most(limit)
    from_prior = width - gamma
    z = rough_log(scale) + from_prior
    low = -690.0 if beta.bits == 64 else -80.0
    start = omega_start(z.at_least(low).at_most(limit))
    ratio = (scale / start).at_least(1.0 / limit).at_most(limit)
    log_ratio = log(ratio)
    one = 1.0 + start
    # beyond that only where z has been bounded
    q = (log_ratio + (from_prior - start)) / one
    q = q.at_least(-0.1).at_most(0.1)
    a = 2.0 * one * (1.0 + 0.6666666666666666 * q)
    change = q * (a - q) / (a - 2.0 * q)
    omega = start * (1.0 + change)
    # omega - width = log(beta width / omega) - gamma, without the loss of digits where
    # the prior is weak and both are large
    series = change * change.polynomial((1.0, -0.5, 1.0 / 3, -0.25, 0.2))
    weak = log_ratio - series - gamma
    return omega, where(width > 1.0, weak, omega - width)


def _update(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    gamma: Lanes,
    walk: Lanes,
    p: Lanes,
    pi_hat: Lanes,
) -> _Update:
    # a coupling of zero is the limit of small ones
    small = 1e-30 if kappa.bits == 64 else 1e-12
    kappa = where(kappa.abs() > small, kappa, small)
    half_square = 0.5 * kappa * kappa
    child = child_of(alpha, beta, kappa, walk, p)
    variance = 1.0 / pi_hat
    # 1. at the prediction
    inverse_pi_1 = 1.0 / (pi_hat + half_square * (child.w * child.v))
    s = child.slope * inverse_pi_1
    bound = 1e4 * variance.sqrt()
    is_near = s.abs() < bound
    s = where(is_near, s, where(s > 0.0, bound, -bound))
    first = moved(child.w, child.v, kappa * s)
    # 2. the mode for alpha -> 0, where q = beta e^-y
    width = half_square * variance
    omega, distance = _wright_omega(beta, gamma, width)
    q = omega / width
    relative = (beta / alpha).at_most(huge(beta))
    inverse_d = 1.0 / (relative + q)
    w, v = relative * inverse_d, q * inverse_d
    # 3. Newton's step from there
    curvature = w * (w + (w - v) * (q * w - 1.0))
    pi_2 = pi_hat + half_square * curvature
    is_concave = pi_2 > 0.0
    inverse_pi_2 = 1.0 / where(is_concave, pi_2, pi_hat + half_square * (w * v))
    slope = 0.5 * kappa * (v * (1.0 - q * (1.0 + w)))
    n = slope * inverse_pi_2
    k = distance / kappa + n
    second = moved(w, v, kappa * n)
    # 4. and 5. both by their energies
    floor = 1e-290 if q.bits == 64 else 1e-18
    ratio = (child.h / q.at_least(floor) + child.v) * (second.part / first.part)
    rest = second.growth - first.growth
    rest = rest + (q * w * second.scaled - child.h * first.scaled)
    rest = 0.5 * (rest + ((pi_hat * k) * k - (pi_hat * s) * s))
    # beyond this one of both is all there is, whatever the other's variance
    reach = 400.0 if q.bits == 64 else 60.0
    odds = ratio.sqrt() * exp(rest.at_least(-reach).at_most(reach))
    odds = odds.at_most(1e300 if q.bits == 64 else 1e30)
    b = 1.0 / (1.0 + odds)
    b_rest = where(rest > -reach, odds * b, 0.0)
    b = where(rest < reach, b, 0.0)
    gap = k - s
    offset = where(b > 0.5, k - b_rest * gap, s + b * gap)
    mixed = b_rest * inverse_pi_1 + b * inverse_pi_2 + (b * gap) * (b_rest * gap)
    return _Update(
        kappa,
        child,
        variance,
        inverse_pi_1,
        s,
        is_near,
        first,
        width,
        omega,
        distance,
        q,
        w,
        v,
        inverse_d,
        is_concave,
        slope,
        inverse_pi_2,
        n,
        k,
        second,
        b,
        b_rest,
        offset,
        mixed,
    )


@lifted(2)
def unbounded(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    gamma: Lanes,
    walk: Lanes,
    p: Lanes,
    mu_hat: Lanes,
    pi_hat: Lanes,
) -> LanesMap:
    """Update mean and precision of a parent."""
    found = _update(alpha, beta, kappa, gamma, walk, p, pi_hat)
    return mu_hat + found.offset, 1.0 / found.mixed_variance


@lifted(5)
def unbounded_adjoint(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    gamma: Lanes,
    walk: Lanes,
    p: Lanes,
    pi_hat: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
) -> LanesMap:
    """Pull back to log `alpha`, log `beta`, `kappa`, `gamma` and `pi_hat`."""
    # `d_` is the derivative of the end result by what follows, `by_` that by its
    # logarithm: derivatives by a huge variance would be too small
    x = _update(alpha, beta, kappa, gamma, walk, p, pi_hat)
    kappa, child, first, second = x.kappa, x.child, x.first, x.second
    b, b_rest, s, k, w, v, q = x.b, x.b_rest, x.s, x.k, x.w, x.v, x.q
    half_kappa = 0.5 * kappa
    half_square = half_kappa * kappa
    # the mixture; pi = 1 / mixed_variance, whose square would be too small
    gap, both = k - s, b * b_rest
    pi = 1.0 / x.mixed_variance
    share_1, share_2 = pi * x.inverse_pi_1, pi * x.inverse_pi_2
    relative_d = d_pi * pi
    d_gap = -2.0 * ((relative_d * pi) * (both * gap))
    d_s = d_mu * b_rest - d_gap
    d_k = d_mu * b + d_gap
    spread = both * (share_2 - share_1) + (b_rest - b) * ((both * gap) * (gap * pi))
    d_energy = d_mu * (gap * both) - relative_d * spread
    d_pi_1 = (d_pi * b_rest) * share_1 * share_1
    d_pi_2 = (d_pi * b) * share_2 * share_2
    # the energies I(m_2) - I(m_1): w delta / 2 at both points
    h_1, h_2 = child.h * first.scaled, q * w * second.scaled
    pull_1, pull_2 = 0.5 * first.w * (h_1 - 1.0), 0.5 * second.w * (h_2 - 1.0)
    half_energy = 0.5 * d_energy
    d_k = d_k + d_energy * (kappa * pull_2 - pi_hat * k)
    d_s = d_s - d_energy * (kappa * pull_1 - pi_hat * s)
    d_kappa = d_energy * k * pull_2 - d_energy * s * pull_1
    d_gamma = d_energy * (pull_2 - pull_1)
    by_alpha = half_energy * (
        (h_2 - 1.0) * (v * second.scaled) - (h_1 - 1.0) * (child.v * first.scaled)
    )
    by_beta = half_energy * (h_1 - h_2)
    d_pi_hat = (half_energy * s) * s - (half_energy * k) * k
    # Newton's step k = distance / kappa + slope / pi_2
    d_slope = d_k * x.inverse_pi_2
    d_pi_2 = d_pi_2 - d_slope * x.n
    concave = w * (w + (w - v) * (q * w - 1.0))
    curvature = where(x.is_concave, concave, w * v)
    by_q = where(x.is_concave, w * w * (w - v), 0.0)
    by_w = where(x.is_concave, 6.0 * q * (w * w) - 2.0 * (q + 1.0) * w + 1.0, v - w)
    d_pi_hat = d_pi_hat + d_pi_2
    d_kappa = d_kappa + d_pi_2 * kappa * curvature
    d_q = half_square * d_pi_2 * by_q - d_slope * half_kappa * (v * (1.0 + w))
    d_w = half_square * d_pi_2 * by_w + d_slope * half_kappa * (2.0 * (q * w) - 1.0)
    inverse_kappa = 1.0 / kappa
    d_distance = d_k * inverse_kappa
    d_kappa = d_kappa + (d_slope * x.slope - d_distance * x.distance) * inverse_kappa
    # w = beta / (beta + alpha q)
    by_ratio = d_w * w * v
    d_q = d_q - d_w * w * x.inverse_d
    # q = omega / width, distance = omega - width
    inverse_one = 1.0 / (1.0 + x.omega)
    d_z = (d_q * q + d_distance * x.omega) * inverse_one
    by_width = (d_distance - d_q * q) * (x.distance * inverse_one)
    d_gamma = d_gamma - d_z
    d_kappa = d_kappa + 2.0 * by_width * inverse_kappa
    d_pi_hat = d_pi_hat - by_width * x.variance
    # Laplace's approximation at the prediction
    d_s = where(x.is_near, d_s, 0.0)
    d_first = d_s * x.inverse_pi_1
    d_pi_1 = d_pi_1 - d_first * s
    d_pi_hat = d_pi_hat + d_pi_1
    weight = child.w * child.v
    d_kappa = d_kappa + d_pi_1 * kappa * weight
    d_w1 = d_pi_1 * half_square * (child.v - child.w)
    a, b, c, g = pull_to_child(child, kappa, d_first, d_w1, 0.0 * d_w1)
    by_alpha = by_alpha - by_ratio + a
    by_beta = by_beta + by_ratio + d_z + b
    return by_alpha, by_beta, d_kappa + c, d_gamma + g, d_pi_hat
