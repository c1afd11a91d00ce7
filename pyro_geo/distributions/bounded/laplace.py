"""Laplace distributions cut off at an interval around their centre."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Laplace, Normal, register_kl

from pyro_geo._compat.torch import validates
from pyro_geo.distributions.bounded._ball import check_range
from pyro_geo.distributions.bounded._mean import symmetric_kl
from pyro_geo.distributions.bounded._quadrature import make_grid
from pyro_geo.distributions.bounded._tensors import log_field
from pyro_geo.distributions.bounded.radial import Radial
from pyro_geo.distributions.bounded.symmetric import BoundedSymmetric

__all__ = ["BoundedLaplace", "LaplaceRadial"]


class LaplaceRadial(Radial):
    r"""A Laplace base in one dimension: the radius is exponential.

    Its information is the radius itself, so the field is :math:`(1 - r/\rho)^\kappa`.

    Args:
        dim: 1.

    Example:
        >>> LaplaceRadial().log_tail(torch.tensor(3.0))
        tensor(-3.)
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__(dim)

    def log_density(self, r2: Tensor) -> Tensor:
        """Log-density at a squared distance `r2` from the centre."""
        return -_root(r2) - math.log(2)

    def log_mass(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability of an interval."""
        return torch.log(-torch.expm1(-radius))

    def log_tail(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability outside."""
        return -radius

    def radius_of(self, log_mass: Tensor, log_tail: Tensor) -> Tensor:
        """Radius of the interval of a given mass."""
        return -log_tail

    def log_normalizer(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Logarithm of the mean of the field under the base."""
        if kappa:
            return super().log_normalizer(radius, kappa)
        return self.log_mass(radius)

    def log_shape(
        self, t: Tensor, rest: Tensor, radius: Tensor, kappa: float
    ) -> Tensor:
        """Unnormalised log-density of `t = r / radius`."""
        value = -radius * t - math.log(2)
        return value + kappa * torch.log(rest) if kappa else value

    def mean_log_field(self, radius: Tensor, kappa: float) -> Tensor:
        """Mean of `log(1 - r / radius)`."""

        def integrand(t: Tensor, rest: Tensor) -> Tensor:
            return self.log_shape(t, rest, radius, kappa)

        grid = make_grid(integrand, radius)
        heights = integrand(grid.t, grid.rest) + grid.log_weight
        return (heights.softmax(0) * torch.log(grid.rest)).sum(0)

    def quantile(
        self, log_p: Tensor, log_q: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> Tensor:
        """Radius below which a point of the interval lies with a given probability."""
        if kappa:
            return super().quantile(log_p, log_q, radius, kappa)
        small = log_p < math.log(0.5)
        below = torch.exp(torch.where(small, log_p, -1.0)) * torch.expm1(-radius)
        beyond = torch.where(small, -1.0, log_q)
        far = torch.logaddexp(beyond, log_p - radius)
        return -torch.where(small, torch.log1p(below), far)

    def shares(
        self, r: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of lying closer than `r` in the interval, and further out."""
        if kappa:
            return super().shares(r, radius, kappa)
        total = torch.expm1(-radius)
        outside = torch.exp(-r) * torch.expm1(r - radius)
        return torch.expm1(-r) / total, outside / total


def _root(r2: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0."""
    positive = r2 > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, r2, 1.0)), 0.0)


class BoundedLaplace(BoundedSymmetric):
    r"""A Laplace distribution on an interval around its centre.

    .. math:: p(x) = \frac{1}{2 b Z} \, e^{-|z|} \,
        \left(1 - \frac{|z|}{\rho}\right)_+^\kappa , \quad
        z = \frac{x - \mu}{b}, \ |z| \le \rho

    The information of a point is :math:`|z|`, as a tail and as a surprisal alike. So
    :math:`c` nats are the radius :math:`c`, and hold the mass :math:`1 - e^{-c}`.

    Args:
        loc: centre; a number or `(*batch,)`.
        scale: of the base, above 0; a number or `(*batch,)`.
        radius: half of the interval, in scales; a number or `(*batch,)`.
        nats: largest separation in the interval; a number or `(*batch,)`.
        mass: probability of the interval under the base; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard interval.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> interval = BoundedLaplace(0.0, 2.0, nats=3.0)
        >>> interval.support.upper_bound, interval.log_mass.exp()
        (tensor(6.), tensor(0.9502))
    """

    def __init__(
        self,
        loc: float | Tensor,
        scale: float | Tensor,
        *,
        radius: float | Tensor | None = None,
        nats: float | Tensor | None = None,
        mass: float | Tensor | None = None,
        kappa: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        if radius is None and mass is None and nats is not None:
            checks = validates(self) if validate_args is None else validate_args
            check_range("nats", nats, math.inf, checks)
            radius, nats = nats, None  # the information is the radius
        super().__init__(
            LaplaceRadial(),
            loc,
            scale,
            radius=radius,
            nats=nats,
            mass=mass,
            kappa=kappa,
            validate_args=validate_args,
        )

    def whitened_log_prob(self, r2: Tensor, outside: Tensor) -> Tensor:
        """Log-density of a whitened number; its gradient is finite everywhere.

        Args:
            r2: its square, `(*sample, *batch)`.
            outside: where it is outside the interval.

        Returns:
            The log-density, minus infinity outside.
        """
        r = _root(torch.where(outside, 0.0, r2))
        value = -r - math.log(2)
        if self.kappa:
            value = value + log_field(r / self.radius, self.kappa)
        return torch.where(outside, -torch.inf, value - self.log_normalizer)


@register_kl(BoundedLaplace, Laplace)
@register_kl(BoundedLaplace, Normal)
def _kl_laplace(p: BoundedLaplace, q: Any) -> Tensor:
    return symmetric_kl(p, q)
