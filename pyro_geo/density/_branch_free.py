"""Log-densities of Pyro's distributions without branches and writes by mask.

Pyro evaluates some of them only where a condition holds. Under `vmap` the condition has
no single value. Here all entries are evaluated, at harmless values where the condition
does not hold, and the results are chosen with `torch.where`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_geo._compat.pyro import StableParts
from pyro_geo.density._normal import normal_log_prob

__all__ = ["masked_multivariate_normal", "masked_normal", "stable_log_prob"]


def masked_normal(self: Any, value: Tensor) -> Tensor:
    """Log-density of a `NanMaskedNormal`: zero where the value is not finite."""
    ok = value.isfinite()
    value = torch.where(ok, value, 0.0)
    loc, scale = torch.where(ok, self.loc, 0.0), torch.where(ok, self.scale, 1.0)
    normal = torch.distributions.Normal(loc, scale, validate_args=False)
    return torch.where(ok, normal.log_prob(value), 0.0)


def masked_multivariate_normal(self: Any, value: Tensor) -> Tensor:
    """Log-density of the finite entries of a `NanMaskedMultivariateNormal`.

    The other entries get variance one, no correlation and the value of their mean, and
    the log-density that this adds is taken off again.

    Returns:
        The log-density of each vector, zero where none of its entries is finite.
    """
    ok = value.isfinite()
    covariance = self.covariance_matrix
    eye = torch.eye(ok.shape[-1], dtype=covariance.dtype, device=covariance.device)
    covariance = torch.where(ok.unsqueeze(-1) & ok.unsqueeze(-2), covariance, eye)
    y = torch.where(ok, torch.where(ok, value, 0.0) - self.loc, 0.0)
    missing = (~ok).sum(-1)
    return normal_log_prob(y, covariance) + 0.5 * math.log(2 * math.pi) * missing


def stable_log_prob(alpha: Tensor, beta: Tensor, value: Tensor, coords: str) -> Tensor:
    """Log-density of a stable distribution of scale one, as Pyro integrates it.

    Args:
        alpha: stability.
        beta: skew.
        value: where.
        coords: parametrisation, `"S"` or `"S0"`.

    Returns:
        The log-density, in double precision.
    """
    parts = StableParts
    if coords == "S":
        tangent = (value - beta * (math.pi / 2 * alpha)).tan()
        value = torch.where(alpha == 1, value, tangent)
    # Close to a stability of one the integral fails: interpolate between both sides.
    near = (alpha - 1).abs() < parts.near_one
    upper = _away_from_one(torch.where(near, 1 + parts.near_one, alpha), beta, value)
    lower = torch.full_like(alpha, 1 - parts.near_one)
    weight = (alpha - 1) / (2 * parts.near_one) + 0.5
    return _between(near, weight, upper, _away_from_one(lower, beta, value))


def _away_from_one(alpha: Tensor, beta: Tensor, value: Tensor) -> Tensor:
    """Log-density in the coordinates S0; close to zero interpolated as well."""
    parts = StableParts
    z = value + beta * (math.pi / 2 * alpha).tan()
    most = parts.near_zero_density * parts.at_zero(alpha, 0).exp().reciprocal()
    edge = (parts.near_zero * alpha / (1 - alpha).abs()).clamp(max=most)
    near = z.abs() < edge
    upper = parts.integrated(alpha, beta, torch.where(near, edge, z))
    return _between(
        near, z / (2 * edge) + 0.5, upper, parts.integrated(alpha, beta, -edge)
    )


def _between(near: Tensor, weight: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """Interpolate two densities where `near`, and take the upper one elsewhere."""
    weight = torch.where(near, weight, 0.5)  # the logarithms stay finite
    both = torch.stack([upper + weight.log(), lower + (1 - weight).log()])
    return torch.where(near, both.logsumexp(0), upper)
