r"""The variational energy of a volatility parent and two quadratic expansions of it.

Every term is taken from

.. math:: r = \log t + \kappa\hat\mu + \omega - \log\alpha,
   \qquad e = \log\beta - \log\alpha

and offsets from the prediction, so that no exponential is formed that may overflow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pyro_geo.ops.special import wright_omega

__all__ = [
    "CAP",
    "Coupling",
    "Expansions",
    "curvatures",
    "expand",
    "relative_energy",
    "slope",
]

CAP = 80.0
"""Largest exponent: `exp(CAP)`, 5e34, decides all and fits single precision."""

_STRAIGHT = 40.0  # from here on softplus is its argument to rounding
_FAR = 1e4  # prior deviations from which the first expansion has no weight
_NO_COUPLING = 1e-15  # below it the square of kappa may underflow


class Coupling(NamedTuple):
    """A coupling and what updates need of it, computed once for all steps."""

    kappa: Tensor
    half: Tensor
    half_square: Tensor
    safe: Tensor  # 1 where there is no coupling
    safe_half_square: Tensor
    absent: Tensor

    @staticmethod
    def of(kappa: Tensor) -> Coupling:
        """Prepare a coupling."""
        absent = kappa.abs() < _NO_COUPLING
        safe = torch.where(absent, 1.0, kappa)
        square = 0.5 * kappa * kappa
        return Coupling(kappa, 0.5 * kappa, square, safe, 0.5 * safe * safe, absent)


class Expansions(NamedTuple):
    """Two quadratic expansions of the energy, and how much higher the second is."""

    first: Tensor  # offset from the prediction
    first_precision: Tensor
    second: Tensor
    second_precision: Tensor
    gain: Tensor


def _softplus(x: Tensor) -> Tensor:
    return functional.softplus(x, 1.0, _STRAIGHT)


def relative_energy(r: Tensor, e: Tensor, pi_hat: Tensor, offset: Tensor) -> Tensor:
    r"""Return :math:`-2 (I + \frac12 \log\alpha)`.

    Args:
        r: of the place where the energy is wanted.
        e: logarithm of the child's squared change over its variance.
        pi_hat: predicted precision of the parent.
        offset: of that place from the prediction.
    """
    lift = _softplus(r)
    energy = lift + torch.exp((e - lift).clamp(max=CAP))
    return torch.addcmul(energy, pi_hat * offset, offset)


def slope(r: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return :math:`w`, :math:`w (1 - w)` and :math:`w \delta`."""
    weight = torch.sigmoid(r)
    log_spread = torch.sub(r, _softplus(r), alpha=2)
    surplus = torch.exp((e + log_spread).clamp(max=CAP)) - weight
    return weight, torch.exp(log_spread), surplus


def curvatures(
    weight: Tensor, surplus: Tensor, pi_hat: Tensor, half_square: Tensor
) -> Tensor:
    """Return minus the second derivative of the energy, of any sign."""
    bend = weight * torch.add(weight, surplus, alpha=2) - surplus
    return torch.addcmul(pi_hat, half_square, bend)


def expand(r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling) -> Expansions:
    """Expand the energy at the prediction, and near the mode that is far from it.

    Args:
        r: logarithm of the predicted volatility over the child's variance.
        e: logarithm of the child's squared change over its variance.
        pi_hat: predicted precision of the parent.
        coupling: of the child to the parent.

    Returns:
        Offsets and precisions of both.
    """
    kappa, half, half_square, safe, safe_half_square, _ = coupling
    _, spread, surplus = slope(r, e)
    precision_1 = torch.addcmul(pi_hat, half_square, spread)
    # no derivative: where it cuts, the first expansion has no weight
    limit = _FAR * torch.rsqrt(pi_hat.detach())
    first = (half * surplus / precision_1).clamp(-limit, limit)
    # the mode if alpha were 0, in closed form
    h = safe_half_square / pi_hat
    mode = (wright_omega(e - r + torch.log(h) + h) - h) / safe
    weight, spread, surplus = slope(torch.addcmul(r, safe, mode), e)
    full = curvatures(weight, surplus, pi_hat, safe_half_square)
    concave = torch.addcmul(pi_hat, safe_half_square, spread)
    precision_2 = torch.where(full > 0, full, concave)
    gradient = torch.addcmul(half * surplus, pi_hat, mode, value=-1)
    second = mode + gradient / precision_2
    both = torch.stack(torch.broadcast_tensors(first, second))
    energy = relative_energy(torch.addcmul(r, kappa, both), e, pi_hat, both)
    gain = 0.5 * (energy[0] - energy[1])
    return Expansions(first, precision_1, second, precision_2, gain)
