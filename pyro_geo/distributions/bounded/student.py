"""Student distributions cut off at an interval or an ellipsoid around their centre."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Cauchy, Normal, StudentT, constraints, register_kl

from pyro_geo.checks import check_number, check_shape
from pyro_geo.distributions.bounded._ball import Separation
from pyro_geo.distributions.bounded._mean import symmetric_kl
from pyro_geo.distributions.bounded._scale import scale_tril_of
from pyro_geo.distributions.bounded.elliptical import BoundedElliptical
from pyro_geo.distributions.bounded.radial import Radial
from pyro_geo.distributions.bounded.symmetric import BoundedSymmetric
from pyro_geo.errors import UnsupportedError

__all__ = ["BoundedMultivariateStudentT", "BoundedStudentT", "StudentRadial"]


_STEPS = 9  # of Newton's method, to rounding


class StudentRadial(Radial):
    r"""A Student base: :math:`r^2 / (\nu + r^2) \sim \mathrm{Beta}(d/2, \nu/2)`.

    Args:
        dim: number of dimensions.
        df: degrees of freedom :math:`\nu`, above 0; a number or `(*batch,)`.

    Example:
        >>> cauchy = StudentRadial(1, 1.0)
        >>> cauchy.log_mass(torch.tensor(1.0)).exp()
        tensor(0.5000)
    """

    def __init__(self, dim: int, df: float | Tensor) -> None:
        super().__init__(dim)
        self.df = df

    def parameters(self) -> tuple[Tensor, ...]:
        """The degrees of freedom, if they are a tensor."""
        return (self.df,) if isinstance(self.df, Tensor) else ()

    def arguments(self) -> tuple[Any, ...]:
        """The dimensions and the degrees of freedom."""
        return self.dim, self.df

    def log_density(self, r2: Tensor) -> Tensor:
        """Log-density of a Student vector of squared length `r2`."""
        power = 0.5 * (self.df + self.dim)
        return self._constant() - power * torch.log1p(r2 / self.df)

    def radius_of(self, log_mass: Tensor, log_tail: Tensor) -> Tensor:
        """Radius of the ball of a given mass, twice differentiable."""
        logit = log_mass - log_tail
        log_radius = torch.zeros_like(logit).detach()
        # the log-odds grow in log r with a slope between the dimension and df
        with torch.no_grad():
            for _ in range(_STEPS):
                log_radius = log_radius + self._newton(log_radius, logit.detach())
        log_radius = log_radius.detach()
        for _ in range(2):
            log_radius = log_radius + self._newton(log_radius, logit)
        return torch.exp(log_radius)

    def _constant(self) -> float | Tensor:
        df, d = self.df, self.dim
        if isinstance(df, Tensor):
            gammas = torch.lgamma(0.5 * (df + d)) - torch.lgamma(0.5 * df)
            return gammas - 0.5 * d * torch.log(math.pi * df)
        gammas = math.lgamma(0.5 * (df + d)) - math.lgamma(0.5 * df)
        return gammas - 0.5 * d * math.log(math.pi * df)


class _Student:
    """Degrees of freedom, which the two classes below share."""

    radial: Any
    radius: Tensor

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of the base, `batch_shape`."""
        df = self.radial.df
        return df if isinstance(df, Tensor) else torch.full_like(self.radius, df)


class BoundedStudentT(_Student, BoundedSymmetric):
    r"""A Student distribution on an interval around its centre.

    .. math:: p(x) = \frac{1}{Z} \, t_\nu(x; \mu, \sigma) \,
        \left(1 - \frac{z^2}{\rho^2}\right)_+^\kappa , \quad
        z = \frac{x - \mu}{\sigma}, \ |z| \le \rho

    All moments exist, whatever the degrees of freedom: a Cauchy distribution on
    :math:`|z| \le \rho` has the variance :math:`\rho / \mathrm{atan}(\rho) - 1`. Use it
    for a parameter that is probably small, may be large, and cannot be beyond a limit.
    See :class:`~pyro_geo.distributions.bounded.symmetric.BoundedSymmetric` for the
    size of the interval and the field.

    Args:
        df: degrees of freedom, above 0; a number or `(*batch,)`. With a number, what
            depends on it is computed once.
        loc: centre; a number or `(*batch,)`.
        scale: of the base, above 0; a number or `(*batch,)`.
        radius: half of the interval, in scales; a number or `(*batch,)`.
        nats: largest separation in the interval; a number or `(*batch,)`.
        mass: probability of the interval under the base; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard interval.
        separation: what nats count: half of :math:`z^2`, or minus the
            log-probability of lying further out.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> cauchy = BoundedStudentT(1.0, 0.0, 1.0, radius=10.0)
        >>> cauchy.variance, 10 / math.atan(10) - 1
        (tensor(5.7975), 5.797...)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        **BoundedSymmetric.arg_constraints,
        "df": constraints.positive,
    }

    def __init__(
        self,
        df: float | Tensor,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        *,
        radius: float | Tensor | None = None,
        nats: float | Tensor | None = None,
        mass: float | Tensor | None = None,
        kappa: float = 0.0,
        separation: Separation = "mahalanobis",
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            _radial(1, df),
            loc,
            scale,
            radius=radius,
            nats=nats,
            mass=mass,
            kappa=kappa,
            separation=separation,
            validate_args=validate_args,
        )


class BoundedMultivariateStudentT(_Student, BoundedElliptical):
    r"""A multivariate Student distribution on an ellipsoid around its centre.

    .. math:: p(x) = \frac{1}{Z} \, t_\nu(x; \mu, \Sigma) \,
        \left(1 - \frac{r^2}{\rho^2}\right)_+^\kappa , \quad
        r^2 = (x - \mu)' \Sigma^{-1} (x - \mu) \le \rho^2

    The covariance is finite for all degrees of freedom. See
    :class:`~pyro_geo.distributions.bounded.elliptical.BoundedElliptical` for the size
    of the ball and the field.

    Args:
        df: degrees of freedom, above 0; a number or `(*batch,)`.
        loc: centre, `(*batch, d)`.
        scale_tril: lower Cholesky factor of the scale matrix, `(*batch, d, d)`.
        covariance_matrix: the scale matrix :math:`\Sigma`, `(*batch, d, d)`, which is
            no covariance, not even of the base.
        precision_matrix: its inverse; exactly one of the three is given.
        radius: of the ball in whitened coordinates; a number or `(*batch,)`.
        nats: largest separation in the ball; a number or `(*batch,)`.
        mass: probability of the ball under the base; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard ball.
        separation: what nats count: half of :math:`r^2`, or minus the
            log-probability of lying further out.
        bijector: how the ball is mapped to unconstrained space.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> loc, eye = torch.zeros(2), torch.eye(2)
        >>> ball = BoundedMultivariateStudentT(2.0, loc, eye, mass=0.5)
        >>> ball.radius  # r^2 / 2 has the odds of the mass
        tensor(1.4142)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        **BoundedElliptical.arg_constraints,
        "df": constraints.positive,
    }

    def __init__(
        self,
        df: float | Tensor,
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
            _radial(loc.shape[-1], df),
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


def _radial(dim: int, df: float | Tensor) -> StudentRadial:
    if not isinstance(df, Tensor):
        check_number("df", df, strict=True)
        df = float(df)
    return StudentRadial(dim, df)


@register_kl(BoundedStudentT, StudentT)
@register_kl(BoundedStudentT, Cauchy)
@register_kl(BoundedStudentT, Normal)
def _kl_student(p: BoundedStudentT, q: Any) -> Tensor:
    return symmetric_kl(p, q)


@register_kl(BoundedMultivariateStudentT, dist.MultivariateStudentT)
def _kl_multivariate(p: BoundedMultivariateStudentT, q: Any) -> Tensor:
    pairs = (p.loc, q.loc), (p.scale_tril, q.scale_tril), (p.df, q.df)
    if not all(torch.equal(*torch.broadcast_tensors(*pair)) for pair in pairs):
        raise UnsupportedError(
            "no closed form for the divergence",
            where="kl_divergence",
            found="a Student vector of other parameters",
            expected="the base of the bounded one",
            todo="Estimate it from samples.",
        )
    return p.kl_to_base()
