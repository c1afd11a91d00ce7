"""The updates that older toolboxes have, and their adjoints, for lanes."""

from __future__ import annotations

from pyro_geo.filtering.hgf.compiled.lanes import Lanes, lifted, where
from pyro_geo.filtering.hgf.compiled.links import child_of, moved, pull_to_child

__all__ = ["classic", "classic_adjoint", "ehgf", "ehgf_adjoint"]

# `at_prior` is 1 where the step is as long as the prior allows, 0 where Newton's


def _curvature(w: Lanes, h: Lanes) -> Lanes:
    """Return w (w + (2 w - 1) delta), delta = h - 1."""
    return w * (w + (2.0 * w - 1.0) * (h - 1.0))


def _by_w(w: Lanes, h: Lanes) -> Lanes:
    return 2.0 * w + (4.0 * w - 1.0) * (h - 1.0)


def _by_h(w: Lanes) -> Lanes:
    return w * (2.0 * w - 1.0)


@lifted(2)
def classic(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    walk: Lanes,
    p: Lanes,
    mu_hat: Lanes,
    pi_hat: Lanes,
    at_prior: Lanes,
) -> tuple[Lanes, ...]:
    """Take Newton's step, or the one of the prior with the same precision after it."""
    child = child_of(alpha, beta, kappa, walk, p)
    pi = pi_hat + 0.5 * kappa * kappa * _curvature(child.w, child.h)
    step = child.slope / where(at_prior > 0.5, pi_hat, pi)
    return mu_hat + step, pi


@lifted(5)
def classic_adjoint(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    walk: Lanes,
    p: Lanes,
    pi_hat: Lanes,
    at_prior: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
) -> tuple[Lanes, ...]:
    """Pull back to log `alpha`, log `beta`, `kappa`, `gamma` and `pi_hat`."""
    child = child_of(alpha, beta, kappa, walk, p)
    half_square = 0.5 * kappa * kappa
    curvature = _curvature(child.w, child.h)
    pi = pi_hat + half_square * curvature
    inverse = 1.0 / where(at_prior > 0.5, pi_hat, pi)
    d_slope = d_mu * inverse
    d_under = -(d_slope * child.slope * inverse)
    d_pi = d_pi + where(at_prior > 0.5, 0.0, d_under)
    d_pi_hat = d_pi + where(at_prior > 0.5, d_under, 0.0)
    d_kappa = d_pi * kappa * curvature
    d_w = d_pi * half_square * _by_w(child.w, child.h)
    d_h = d_pi * half_square * _by_h(child.w)
    by_alpha, by_beta, d_own, d_gamma = pull_to_child(child, kappa, d_slope, d_w, d_h)
    return by_alpha, by_beta, d_kappa + d_own, d_gamma, d_pi_hat


@lifted(2)
def ehgf(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    walk: Lanes,
    p: Lanes,
    mu_hat: Lanes,
    pi_hat: Lanes,
) -> tuple[Lanes, ...]:
    """Take the step of the prior, and the precision of the place that it leads to."""
    child = child_of(alpha, beta, kappa, walk, p)
    step = child.slope / pi_hat
    point = moved(child.w, child.v, kappa * step)
    curvature = _curvature(point.w, child.h * point.scaled)
    extra = 0.5 * kappa * kappa * where(curvature > 0.0, curvature, 0.0)
    return mu_hat + step, pi_hat + extra


@lifted(5)
def ehgf_adjoint(
    alpha: Lanes,
    beta: Lanes,
    kappa: Lanes,
    walk: Lanes,
    p: Lanes,
    pi_hat: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
) -> tuple[Lanes, ...]:
    """Pull back to log `alpha`, log `beta`, `kappa`, `gamma` and `pi_hat`."""
    child = child_of(alpha, beta, kappa, walk, p)
    variance = 1.0 / pi_hat
    step = child.slope * variance
    point = moved(child.w, child.v, kappa * step)
    h, w = child.h * point.scaled, point.w
    curvature = _curvature(w, h)
    d_extra = where(curvature > 0.0, d_pi, 0.0)
    half_square = 0.5 * kappa * kappa
    d_w = d_extra * half_square * _by_w(w, h)
    d_h = d_extra * half_square * _by_h(w)
    # w and h at gamma + kappa step
    rest = child.v * point.scaled
    d_there = w * (d_w * rest - d_h * h)
    by_alpha = -(d_w * w + d_h * h) * rest
    d_step = d_mu + d_there * kappa
    d_slope = d_step * variance
    zero = d_mu * 0.0
    a, b, k, g = pull_to_child(child, kappa, d_slope, zero, zero)
    d_kappa = k + d_extra * kappa * curvature + d_there * step
    d_pi_hat = d_pi - d_slope * step
    return a + by_alpha, b + d_h * h, d_kappa, g + d_there, d_pi_hat
