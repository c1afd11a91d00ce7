"""The flat density on an ellipsoid, and the Pearson type II law."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.distributions.bounded._scale import scale_tril_of
from pyro_geo.distributions.bounded.elliptical import BoundedElliptical
from pyro_geo.distributions.bounded.radial import Radial

__all__ = ["BoundedFlat"]


class _FlatRadial(Radial):
    """The volume itself, which no ball but a bounded one makes a probability."""

    def log_density(self, r2: Tensor) -> Tensor:
        """Zero everywhere."""
        return torch.zeros_like(r2)

    def log_normalizer(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Log-volume of the ball, times the mean of the field in it."""
        d = self.dim
        log_volume = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
        return log_volume + _log_mean_field(d, kappa) + d * torch.log(radius)

    def second_moment(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Mean of the squared radius: `r^2 / radius^2` has a beta distribution."""
        return radius.square() * (self.dim / (self.dim + 2 * kappa + 2))

    def mean_log_field(self, radius: Tensor, kappa: float) -> Tensor:
        """Mean of the logarithm of a beta variable."""
        from scipy.special import digamma

        mean = digamma(kappa + 1) - digamma(0.5 * self.dim + kappa + 1)
        return torch.full_like(radius, float(mean))

    def mean_log_density(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Zero."""
        return torch.zeros_like(radius)

    def quantile(
        self, log_p: Tensor, log_q: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> Tensor:
        """Radius below which a point of the ball lies with a given probability."""
        if kappa:
            return super().quantile(log_p, log_q, radius, kappa)
        return radius * torch.exp(log_p / self.dim)


def _log_mean_field(dim: int, kappa: float) -> float:
    """Log of the mean of `(1 - s)^kappa` over a ball, where `s ~ Beta(d / 2, 1)`."""
    half = 0.5 * dim
    return (
        math.lgamma(half + 1) + math.lgamma(kappa + 1) - math.lgamma(half + kappa + 1)
    )


class BoundedFlat(BoundedElliptical):
    r"""A flat density on an ellipsoid; with a field, the Pearson type II law.

    .. math:: p(x) \propto \left(1 - \frac{r^2}{\rho^2}\right)_+^\kappa , \quad
        r^2 = (x - \mu)' \Sigma^{-1} (x - \mu), \quad
        \mathrm{Cov} = \frac{\rho^2}{d + 2 \kappa + 2} \Sigma

    The squared length :math:`r^2 / \rho^2` is :math:`\mathrm{Beta}(d/2, \kappa + 1)`.
    The base is the uniform law on the same ellipsoid: no base is flat on all of space.
    Hence a `mass` has no meaning here, and without a field the divergence is 0.

    Use it where nothing but bounds is known, or with :math:`\kappa = 1, 2` for a kernel
    of compact support (Epanechnikov, biweight).

    Args:
        loc: centre, `(*batch, d)`.
        scale_tril: lower Cholesky factor of the scale matrix, `(*batch, d, d)`.
        covariance_matrix: the scale matrix :math:`\Sigma`, `(*batch, d, d)`.
        precision_matrix: its inverse; exactly one of the three is given.
        radius: of the ball in whitened coordinates; a number or `(*batch,)`.
        nats: largest :math:`r^2 / 2` in the ball; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the uniform law.
        bijector: how the ball is mapped to unconstrained space.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Johnson (1987), Multivariate Statistical Simulation, chapter 6.

    Example:
        >>> disc = BoundedFlat(torch.zeros(2), torch.eye(2), radius=1.0)
        >>> disc.log_prob(torch.zeros(2)), disc.variance  # -log(pi), radius^2 / 4
        (tensor(-1.1447), tensor([0.2500, 0.2500]))
    """

    def __init__(
        self,
        loc: Tensor,
        scale_tril: Tensor | None = None,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        *,
        radius: float | Tensor | None = None,
        nats: float | Tensor | None = None,
        kappa: float = 0.0,
        bijector: Literal["tanh", "algebraic"] = "tanh",
        validate_args: bool | None = None,
    ) -> None:
        check_shape("loc", loc.shape, "(*batch, d)", loc.dim() >= 1)
        super().__init__(
            _FlatRadial(loc.shape[-1]),
            loc,
            scale_tril_of(scale_tril, covariance_matrix, precision_matrix),
            radius=radius,
            nats=nats,
            kappa=kappa,
            bijector=bijector,
            validate_args=validate_args,
        )

    @property
    def log_mass(self) -> Tensor:
        """Zero: the base is the uniform law on the ellipsoid."""
        return torch.zeros_like(self.radius)

    @property
    def log_normalizer(self) -> Tensor:
        """Logarithm of the mean of the field over the ellipsoid."""
        value = _log_mean_field(self.radial.dim, self.kappa)
        return torch.full_like(self.radius, value)
