"""Normal distributions cut off at an interval or an ellipsoid around their centre."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.distributions.bounded._ball import Separation
from pyro_geo.distributions.bounded._normal_radius import NormalRadial
from pyro_geo.distributions.bounded._scale import scale_tril_of
from pyro_geo.distributions.bounded.elliptical import BoundedElliptical
from pyro_geo.distributions.bounded.symmetric import BoundedSymmetric

__all__ = ["BoundedMultivariateNormal", "BoundedNormal", "NormalRadial"]


class BoundedNormal(BoundedSymmetric):
    r"""A normal distribution on an interval around its centre.

    .. math:: p(x) = \frac{1}{Z} \, N(x; \mu, \sigma^2) \,
        \left(1 - \frac{z^2}{\rho^2}\right)_+^\kappa , \quad
        z = \frac{x - \mu}{\sigma}, \ |z| \le \rho

    For the hard interval the divergence from the normal is minus the logarithm of its
    mass. See :class:`~pyro_geo.distributions.bounded.symmetric.BoundedSymmetric` for
    the size of the interval and the field.

    Args:
        loc: centre; a number or `(*batch,)`.
        scale: of the normal, above 0; a number or `(*batch,)`.
        radius: half of the interval, in scales; a number or `(*batch,)`.
        nats: largest separation in the interval; a number or `(*batch,)`.
        mass: probability of the interval under the normal; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard interval.
        separation: what nats count: half of :math:`z^2`, or minus the
            log-probability of lying further out.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> import torch
        >>> interval = BoundedNormal(0.0, 2.0, radius=1.0)
        >>> interval.log_prob(torch.tensor([0.0, 2.1]))
        tensor([-1.2304,    -inf])
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
        separation: Separation = "mahalanobis",
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            NormalRadial(1),
            loc,
            scale,
            radius=radius,
            nats=nats,
            mass=mass,
            kappa=kappa,
            separation=separation,
            validate_args=validate_args,
        )


class BoundedMultivariateNormal(BoundedElliptical):
    r"""A multivariate normal distribution on an ellipsoid around its centre.

    .. math:: p(x) = \frac{1}{Z} \, N(x; \mu, \Sigma) \,
        \left(1 - \frac{r^2}{\rho^2}\right)_+^\kappa , \quad
        r^2 = (x - \mu)' \Sigma^{-1} (x - \mu) \le \rho^2

    For the hard ball, with the regularised incomplete gamma function :math:`P`,

    .. math:: Z = P(d/2, \rho^2/2), \quad \mathrm{Cov} =
        \frac{P(d/2 + 1, \rho^2/2)}{P(d/2, \rho^2/2)} \Sigma , \quad
        \mathrm{KL} = -\log Z

    Use it as a prior that rules out what is further than a stated distance, or as a
    noise that cannot be larger. See
    :class:`~pyro_geo.distributions.bounded.elliptical.BoundedElliptical` for the size
    of the ball and the field.

    Args:
        loc: centre, `(*batch, d)`.
        scale_tril: lower Cholesky factor of the scale matrix, `(*batch, d, d)`.
        covariance_matrix: the scale matrix :math:`\Sigma`, `(*batch, d, d)`: the
            covariance of the normal, which is above that of the result.
        precision_matrix: its inverse; exactly one of the three is given.
        radius: of the ball in whitened coordinates; a number or `(*batch,)`.
        nats: largest separation in the ball; a number or `(*batch,)`.
        mass: probability of the ball under the normal; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard ball.
        separation: what nats count: half of :math:`r^2`, or minus the
            log-probability of lying further out.
        bijector: how the ball is mapped to unconstrained space.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> import torch
        >>> loc, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2).double()
        >>> ball = BoundedMultivariateNormal(loc, scale_tril=eye, radius=1.0)
        >>> ball.log_prob(torch.tensor([[0.6, 0.6], [0.8, 0.8]]).double())
        tensor([-1.2651,    -inf], dtype=torch.float64)
        >>> round(ball.kl_to_base().item(), 6)  # -log(1 - exp(-1/2))
        0.932752
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
        mass: float | Tensor | None = None,
        kappa: float = 0.0,
        separation: Separation = "mahalanobis",
        bijector: Literal["tanh", "algebraic"] = "tanh",
        validate_args: bool | None = None,
    ) -> None:
        check_shape("loc", loc.shape, "(*batch, d)", loc.dim() >= 1)
        super().__init__(
            NormalRadial(loc.shape[-1]),
            loc,
            scale_tril_of(scale_tril, covariance_matrix, precision_matrix),
            radius=radius,
            nats=nats,
            mass=mass,
            kappa=kappa,
            separation=separation,
            bijector=bijector,
            validate_args=validate_args,
        )
