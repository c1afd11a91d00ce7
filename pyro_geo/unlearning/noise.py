r"""How much noise hides a deletion: exact calibration of Gaussian noise.

Two random outputs are :math:`(\varepsilon, \delta)`-indistinguishable where

.. math:: P(S) \le e^\varepsilon Q(S) + \delta \quad\text{and}\quad
          Q(S) \le e^\varepsilon P(S) + \delta \quad\text{for every set } S.

Everything here is said in one number, the separation :math:`\mu`: the outputs are no
easier to tell apart than :math:`N(0, 1)` and :math:`N(\mu, 1)`. Separations of
mechanisms in a row add in squares, and nothing that is computed from an output
afterwards makes its separation larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from pyro_geo.checks import check, check_count, check_number

__all__ = [
    "attack_auc",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_separation",
    "noisy_steps_scale",
    "noisy_steps_separation",
]

_BISECTIONS = 200


def gaussian_delta(epsilon: float, separation: float) -> float:
    r"""Smallest delta at which two normal distributions cannot be told apart.

    .. math:: \delta(\varepsilon) = \Phi\bigl(\tfrac\mu2 - \tfrac\varepsilon\mu\bigr)
              - e^\varepsilon \Phi\bigl(-\tfrac\mu2 - \tfrac\varepsilon\mu\bigr)

    Args:
        epsilon: at least 0.
        separation: distance of the means in standard deviations, :math:`\mu`.

    Returns:
        The delta.

    References:
        Balle and Wang (2018), Improving the Gaussian mechanism for differential
        privacy, 1805.06530, theorem 8.

    Example:
        >>> round(gaussian_delta(1.0, 1.0), 6)
        0.126937
    """
    check_number("epsilon", epsilon)
    check_number("separation", separation)
    if separation == 0:
        return 0.0
    upper = separation / 2 - epsilon / separation
    lower = -separation / 2 - epsilon / separation
    logs = torch.special.log_ndtr(torch.tensor([upper, lower], dtype=torch.float64))
    first, second = float(logs[0]), epsilon + float(logs[1])
    # the difference of two logarithms keeps digits where both terms are tiny
    return max(0.0, -math.exp(first) * math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(delta: float, separation: float) -> float:
    """Smallest epsilon at which two normal distributions have this delta.

    Args:
        delta: above 0 and below 1.
        separation: distance of the means in standard deviations.

    Returns:
        The epsilon.

    Example:
        >>> round(gaussian_epsilon(gaussian_delta(2.0, 0.7), 0.7), 6)
        2.0
    """
    check_number("delta", delta, 0.0, 1.0, strict=True)
    if gaussian_delta(0.0, separation) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, separation) > delta:
        high *= 2
    return _boundary(lambda e: gaussian_delta(e, separation) > delta, 0.0, high)[1]


def gaussian_separation(epsilon: float, delta: float) -> float:
    r"""Largest separation that is :math:`(\varepsilon, \delta)`-indistinguishable.

    Noise of standard deviation `sensitivity / separation` makes an output of that
    sensitivity so. This is the exact Gaussian mechanism, for any epsilon.

    Args:
        epsilon: above 0.
        delta: above 0 and below 1.

    Returns:
        The separation, rounded to the safe side.

    References:
        Balle and Wang (2018), 1805.06530, algorithm 1.

    Example:
        >>> round(1 / gaussian_separation(1.0, 1e-5), 4)
        3.7306
    """
    check_number("epsilon", epsilon, strict=True)
    check_number("delta", delta, 0.0, 1.0, strict=True)
    high = 1.0
    while gaussian_delta(epsilon, high) <= delta:
        high *= 2
    return _boundary(lambda m: gaussian_delta(epsilon, m) <= delta, 0.0, high)[0]


def noisy_steps_separation(
    scale: float,
    num_steps: int,
    *,
    radius: float,
    step_bound: float,
    contraction: float = 1.0,
) -> float:
    r"""Separation after noisy steps from two starts that are not far apart.

    Two runs make the same steps :math:`x_{t+1} = c\, x_t - u_t(x_t) + \sigma \xi_t`
    with :math:`\|u_t\| \le B`, from starts within a ball of radius `r`. Nothing else is
    known of :math:`u_t`. Then

    .. math:: \mu = \frac{2 c^T r + 2 B \sum_{j<T} c^j}
                         {\sigma \sqrt{\sum_{j<T} c^{2j}}}

    by shifting one run towards the other by a share of their distance at each step.
    Only the last position is released, not the way to it.

    Args:
        scale: standard deviation of the noise of one step, :math:`\sigma`.
        num_steps: `T`.
        radius: of the ball of starts, `r`.
        step_bound: `B`, for clipped gradients their bound times the learning rate.
        contraction: `c`, 1 minus the decay of a step.

    Returns:
        The separation.

    References:
        Koloskova et al. (2025), Certified unlearning for neural networks, 2506.06985,
        for the scheme, with a Renyi bound that is looser; Bok, Su and Altschuler
        (2024), Shifted interpolation for differential privacy, 2403.00278, for the
        exact conversion; Feldman et al. (2018), Privacy amplification by iteration,
        1808.06651.

    Example:
        >>> noisy_steps_separation(1.0, 1, radius=0.5, step_bound=0.0)
        1.0
        >>> noisy_steps_separation(1.0, 4, radius=0.5, step_bound=0.0)
        0.5
    """
    check_number("scale", scale, strict=True)
    check_count("num_steps", num_steps)
    check_number("radius", radius)
    check_number("step_bound", step_bound)
    good = 0 < contraction <= 1
    check(good, "contraction", contraction, "above 0 and at most 1")
    powers = [contraction**j for j in range(num_steps)]
    distance = 2 * contraction**num_steps * radius + 2 * step_bound * sum(powers)
    # shares in proportion to the powers have the least sum of squares; they never
    # shift a run past the other one, as later shares are larger
    return distance / (scale * math.sqrt(sum(p * p for p in powers)))


def noisy_steps_scale(
    epsilon: float,
    delta: float,
    num_steps: int,
    *,
    radius: float,
    step_bound: float,
    contraction: float = 1.0,
) -> float:
    """Noise of each step that makes the last position indistinguishable.

    Args:
        epsilon: above 0.
        delta: above 0 and below 1.
        num_steps: noisy steps.
        radius: see :func:`noisy_steps_separation`.
        step_bound: see there.
        contraction: see there.

    Returns:
        The standard deviation.

    Example:
        >>> round(noisy_steps_scale(1.0, 1e-5, 1, radius=0.5, step_bound=0.0), 4)
        3.7306
    """
    allowed = gaussian_separation(epsilon, delta)
    alone = noisy_steps_separation(
        1.0,
        num_steps,
        radius=radius,
        step_bound=step_bound,
        contraction=contraction,
    )
    return alone / allowed


def attack_auc(separation: float) -> float:
    r"""Largest area under the curve that any attack on one output can have.

    .. math:: \Phi(\mu / \sqrt 2)

    Args:
        separation: of the outputs.

    Returns:
        The area, between 1/2 and 1.

    Example:
        >>> round(attack_auc(gaussian_separation(1.0, 1e-5)), 3)
        0.575
    """
    check_number("separation", separation)
    return 0.5 * math.erfc(-separation / 2)


def _boundary(
    below: Callable[[float], bool], low: float, high: float
) -> tuple[float, float]:
    """Bisect to where a predicate stops to hold; both sides of that point."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if below(middle):
            low = middle
        else:
            high = middle
    return low, high
