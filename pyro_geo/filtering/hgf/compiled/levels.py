"""Predictions, observations and value coupling of a chain, and their adjoints.

A name with `d_` before it is the derivative of the end result by what it names.
"""

from __future__ import annotations

from pyro_geo.filtering.hgf.compiled.functions import exp, log
from pyro_geo.filtering.hgf.compiled.lanes import Lanes, huge, lifted, where

__all__ = [
    "add",
    "answer",
    "answer_adjoint",
    "choose",
    "fold",
    "fold_adjoint",
    "logarithm",
    "message",
    "message_adjoint",
    "observe_binary",
    "observe_binary_adjoint",
    "observe_gaussian",
    "observe_gaussian_adjoint",
    "predict",
    "predict_adjoint",
    "surprise_gaussian",
    "walk_at",
]

LanesMap = tuple[Lanes, ...]
_LOG_2_PI = 1.8378770664093453
_CLIP = 1e-6  # of probabilities, as in other toolboxes
_LOGIT = 13.815509557963773  # of the largest probability


def _walk(gamma: Lanes) -> Lanes:
    # far above every variance, but with an inverse
    return exp(gamma.at_most(700.0 if gamma.bits == 64 else 80.0))


@lifted(4)
def predict(
    mu: Lanes,
    pi: Lanes,
    above: Lanes,
    omega: Lanes,
    kappa: Lanes,
    drift: Lanes,
    autoconnection: Lanes,
    value_coupling: Lanes,
    time: Lanes,
    log_time: Lanes,
) -> LanesMap:
    """Predict mean and precision; also log variance of the walk, and the variance."""
    mu_hat = autoconnection * mu + time * (drift + value_coupling * above)
    gamma = log_time + omega + kappa * above
    walk = _walk(gamma)
    return mu_hat, pi / (1.0 + pi * walk), gamma, walk


@lifted(8)
def predict_adjoint(
    mu: Lanes,
    pi: Lanes,
    above: Lanes,
    kappa: Lanes,
    autoconnection: Lanes,
    value_coupling: Lanes,
    time: Lanes,
    pi_hat: Lanes,
    walk: Lanes,
    d_mu_hat: Lanes,
    d_pi_hat: Lanes,
    d_gamma: Lanes,
) -> LanesMap:
    """Pull back to mean, precision, mean above, and the parameters of a level."""
    # omega, kappa, drift, autoconnection, value coupling
    ratio = pi_hat / pi
    d_gamma = d_gamma - d_pi_hat * pi_hat * (pi_hat * walk)
    d_drift = time * d_mu_hat
    d_above = kappa * d_gamma + value_coupling * d_drift
    return (
        autoconnection * d_mu_hat,
        d_pi_hat * ratio * ratio,
        d_above,
        d_gamma,
        d_gamma * above,
        d_drift,
        d_mu_hat * mu,
        d_drift * above,
    )


@lifted(2)
def observe_gaussian(
    u: Lanes, input_precision: Lanes, mu_hat: Lanes, pi_hat: Lanes
) -> LanesMap:
    """Update the lowest level by a number."""
    pi = pi_hat + input_precision
    return mu_hat + input_precision / pi * (u - mu_hat), pi


@lifted(1)
def surprise_gaussian(
    u: Lanes, input_precision: Lanes, mu_hat: Lanes, pi_hat: Lanes, noise: Lanes
) -> Lanes:
    """Return minus the log density of the input, without its noise where that is 0."""
    gain = input_precision / (pi_hat + input_precision)
    precision = where(noise > 0.5, pi_hat * gain, pi_hat)
    error = u - mu_hat
    return 0.5 * (_LOG_2_PI - log(precision) + error * error * precision)


@lifted(4)
def observe_gaussian_adjoint(
    u: Lanes,
    input_precision: Lanes,
    mu_hat: Lanes,
    pi_hat: Lanes,
    noise: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
    d_surprise: Lanes,
) -> LanesMap:
    """Pull back to `u`, `input_precision`, `mu_hat` and `pi_hat`."""
    inverse = 1.0 / (pi_hat + input_precision)
    gain, rest = input_precision * inverse, pi_hat * inverse
    error = u - mu_hat
    # mu = mu_hat + gain error
    d_gain = d_mu * error
    d_pi = d_pi - d_gain * gain * inverse
    d_u, d_input = d_mu * gain, d_pi + d_gain * inverse
    # the surprise
    has_noise = noise > 0.5
    precision = where(has_noise, pi_hat * gain, pi_hat)
    d_precision = 0.5 * d_surprise * (error * error - 1.0 / precision)
    d_error = d_surprise * error * precision
    d_u = d_u + d_error
    d_input = d_input + where(has_noise, d_precision * rest * rest, 0.0)
    d_pi_hat = d_pi + d_precision * where(has_noise, gain * gain, 1.0)
    return d_u, d_input, d_mu * rest - d_error, d_pi_hat


def _sigmoid(x: Lanes) -> Lanes:
    e = exp(-x.abs())
    return where(x > 0.0, 1.0, e) / (1.0 + e)


@lifted(3)
def observe_binary(u: Lanes, mu_hat: Lanes, pi_hat: Lanes) -> LanesMap:
    """Update the lowest level by an outcome; also return the surprise."""
    p = _sigmoid(mu_hat).at_least(_CLIP).at_most(1.0 - _CLIP)
    pi = pi_hat + p * (1.0 - p)
    return mu_hat + (u - p) / pi, pi, -log(where(u > 0.5, p, 1.0 - p))


@lifted(2)
def observe_binary_adjoint(
    u: Lanes,
    mu_hat: Lanes,
    pi_hat: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
    d_surprise: Lanes,
) -> LanesMap:
    """Pull back to `mu_hat` and `pi_hat`."""
    free = _sigmoid(mu_hat)
    p = free.at_least(_CLIP).at_most(1.0 - _CLIP)
    slope = where((free - 0.5).abs() < 0.5 - _CLIP, p * (1.0 - p), 0.0)
    inverse = 1.0 / (pi_hat + p * (1.0 - p))
    d_step = d_mu * inverse
    d_pi = d_pi - d_step * (u - p) * inverse
    d_p = d_pi * (1.0 - 2.0 * p) - d_step
    d_p = d_p + d_surprise / where(u > 0.5, -p, 1.0 - p)
    return d_mu + d_p * slope, d_pi


@lifted(1)
def answer(sign: Lanes, zeta: Lanes, mu_hat: Lanes) -> Lanes:
    """Return minus the log-probability of a choice, 0 where the sign is 0."""
    x = -(sign * zeta) * mu_hat.at_least(-_LOGIT).at_most(_LOGIT)
    # softplus without overflow
    found = x.at_least(0.0) + log(1.0 + exp(-x.abs()))
    return where(sign.abs() > 0.5, found, 0.0)


@lifted(2)
def answer_adjoint(
    sign: Lanes, zeta: Lanes, mu_hat: Lanes, d_surprise: Lanes
) -> LanesMap:
    """Pull back to `mu_hat` and `zeta`."""
    mean = mu_hat.at_least(-_LOGIT).at_most(_LOGIT)
    d_x = -(d_surprise * sign) * _sigmoid(-(sign * zeta) * mean)
    return where(mu_hat.abs() < _LOGIT, d_x * zeta, 0.0), d_x * mean


@lifted(2)
def message(mu: Lanes, pi: Lanes, mu_hat: Lanes, pi_before: Lanes) -> LanesMap:
    """Return the variance before, and squared error plus variance now."""
    error = mu - mu_hat
    # an update that runs away gets no further than its square can be written
    beta = (1.0 / pi + error * error).at_most(huge(pi))
    return 1.0 / pi_before, beta


@lifted(4)
def message_adjoint(
    mu: Lanes,
    pi: Lanes,
    mu_hat: Lanes,
    alpha: Lanes,
    beta: Lanes,
    by_alpha: Lanes,
    by_beta: Lanes,
) -> LanesMap:
    """Pull back to `mu`, `pi`, `mu_hat` and `pi_before` from the logarithms."""
    d_beta = by_beta / beta
    d_mu = 2.0 * d_beta * (mu - mu_hat)
    variance = 1.0 / pi
    return d_mu, -(d_beta * variance) * variance, -d_mu, -by_alpha * alpha


@lifted(2)
def fold(
    mu_hat: Lanes,
    pi_hat: Lanes,
    child_mu: Lanes,
    child_mu_hat: Lanes,
    child_pi_hat: Lanes,
    weight: Lanes,
) -> LanesMap:
    """Update a level by the prediction error of the level that it carries along."""
    pi = pi_hat + child_pi_hat * weight * weight
    error = child_mu - child_mu_hat
    return mu_hat + weight * child_pi_hat * error / pi, pi


@lifted(4)
def fold_adjoint(
    pi: Lanes,
    child_mu: Lanes,
    child_mu_hat: Lanes,
    child_pi_hat: Lanes,
    weight: Lanes,
    d_mu: Lanes,
    d_pi: Lanes,
) -> LanesMap:
    """Pull back to `pi_hat`, the child's error and precision, and the weight."""
    error = child_mu - child_mu_hat
    push = weight * child_pi_hat
    d_push = d_mu / pi
    d_pi = d_pi - d_push * push * error / pi
    return (
        d_pi,
        d_push * push,
        (d_pi * weight + d_push * error) * weight,
        (2.0 * d_pi * weight + d_push * error) * child_pi_hat,
    )


@lifted(3)
def walk_at(gamma: Lanes, kappa: Lanes, shift: Lanes, alpha: Lanes) -> LanesMap:
    """Move the log variance of a walk; return it, the variance, 1 / (alpha + it)."""
    gamma = gamma + kappa * shift
    walk = _walk(gamma)
    return gamma, walk, 1.0 / (alpha + walk)


@lifted(1)
def choose(mask: Lanes, yes: Lanes, no: Lanes) -> Lanes:
    """Take `yes` where the mask is 1 and `no` where it is 0."""
    return where(mask > 0.5, yes, no)


@lifted(1)
def add(x: Lanes, y: Lanes) -> Lanes:
    """Add."""
    return x + y


@lifted(1)
def subtract(x: Lanes, y: Lanes) -> Lanes:
    """Subtract."""
    return x - y


@lifted(1)
def multiply(x: Lanes, y: Lanes) -> Lanes:
    """Multiply."""
    return x * y


@lifted(1)
def logarithm(x: Lanes) -> Lanes:
    """Take the logarithm."""
    return log(x)
