"""Bounded sites as transformations of sites whose support never moves."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check
from pyro_geo.density.structure import base_distribution
from pyro_geo.distributions.bounded._bounded import Bounded
from pyro_geo.distributions.bounded._normal_radius import NormalRadial
from pyro_geo.errors import UnsupportedError

__all__ = ["BallReparam", "RadialGaussianReparam"]

_CENTRAL = 1e-12  # squared length below which the map is linear to rounding


class _UnitBall(TorchDistribution):
    """The law of a bounded variable in units of its ball.

    Its support is the unit ball, whatever the parameters are.

    Args:
        fn: the distribution.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, fn: Bounded) -> None:
        self.fn = fn
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The unit ball."""
        return self.fn.unit_support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _UnitBall:
        """Give the distribution a batch shape."""
        return _UnitBall(self.fn.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw points of the unit ball."""
        return _to_unit(self.fn, self.fn.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density on the unit ball; minus infinity outside."""
        s = _squared_length(self.fn, value)
        outside = s > 1 + 32 * torch.finfo(s.dtype).eps
        jacobian = self.fn.radial.dim * torch.log(self.fn.radius)
        r2 = self.fn.radius.square() * s
        return self.fn.whitened_log_prob(r2, outside) + jacobian


def _squared_length(fn: Bounded, z: Tensor) -> Tensor:
    return z.square().sum(-1) if fn.event_shape else z.square()


def _scaled(fn: Bounded, factor: Tensor, z: Tensor) -> Tensor:
    """Multiply vectors of an event by one number each."""
    return (factor.unsqueeze(-1) if fn.event_shape else factor) * z


def _to_unit(fn: Bounded, value: Tensor) -> Tensor:
    """Map points of the support to the unit ball."""
    return _scaled(fn, 1 / fn.radius, fn.whitened(value))


class _BoundedReparam(Reparam):
    """Reparametrises a site of a bounded distribution by one auxiliary site."""

    suffix: str

    @abstractmethod
    def auxiliary(self, fn: Bounded) -> TorchDistribution:
        """Law of the auxiliary site."""

    @abstractmethod
    def forward(self, fn: Bounded, auxiliary: Tensor) -> Tensor:
        """Value of the site."""

    @abstractmethod
    def inverse(self, fn: Bounded, value: Tensor) -> Tensor:
        """Value of the auxiliary site."""

    def apply(self, msg: Any) -> Any:
        """Replace a sample statement.

        Args:
            msg: name, distribution, value and whether it is observed.

        Returns:
            The same four, with a point mass at the value.

        Raises:
            UnsupportedError: the site is observed.
        """
        name, fn, value = msg["name"], msg["fn"], msg["value"]
        base = base_distribution(fn)
        check(
            isinstance(base, Bounded),
            f"reparam of site {name!r}",
            type(base).__name__,
            "a bounded distribution around a centre",
        )
        if msg["is_observed"]:
            raise UnsupportedError(
                "an observed site is no latent to reparametrise",
                where=f"site {name!r}",
                found=type(self).__name__,
                expected="a latent site",
                todo="Leave the site out of the configuration of poutine.reparam.",
            )
        auxiliary = self.auxiliary(base)
        reinterpreted = fn.event_dim - len(base.event_shape)
        if reinterpreted:
            auxiliary = auxiliary.to_event(reinterpreted)
        start = None if value is None else self.inverse(base, value)
        drawn: Any = pyro.sample(
            f"{name}_{self.suffix}",
            auxiliary,
            obs=start,
            infer={"is_observed": False},
        )
        if value is None:
            value = self.forward(base, drawn)
        point = dist.Delta(value, event_dim=fn.event_dim).mask(False)
        return {"fn": point, "value": value, "is_observed": True}


class BallReparam(_BoundedReparam):
    r"""Sample the unit ball and map it onto the ball of a site.

    .. math:: x = \mu + \rho L u, \quad |u| \le 1

    The law of the site is unchanged. Its support no longer depends on other sites, so
    centre, scale and radius may be latent. The site itself becomes deterministic, and
    `NAME_unit` is the latent.

    Example:
        >>> import pyro_geo.distributions as bounded
        >>> def model():
        ...     scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        ...     return pyro.sample("x", bounded.BoundedNormal(0.0, scale, radius=2.0))
        >>> moved = pyro.poutine.reparam(model, {"x": BallReparam()})
        >>> sorted(pyro.poutine.trace(moved).get_trace().stochastic_nodes)
        ['scale', 'x_unit']
    """

    suffix = "unit"

    def auxiliary(self, fn: Bounded) -> TorchDistribution:
        """Law of the site in units of its ball."""
        return _UnitBall(fn)

    def forward(self, fn: Bounded, auxiliary: Tensor) -> Tensor:
        """Point of the ball at a point of the unit ball."""
        return fn.unwhitened(_scaled(fn, fn.radius, auxiliary))

    def inverse(self, fn: Bounded, value: Tensor) -> Tensor:
        """Point of the unit ball at a point of the ball."""
        return _to_unit(fn, value)


class RadialGaussianReparam(_BoundedReparam):
    r"""Sample a standard normal vector and move it along its ray into the ball.

    With :math:`F` the distribution function of the whitened radius in the ball,

    .. math:: x = \mu + L z \, \frac{r}{s}, \quad s = |z|, \quad F(r) = P(d/2, s^2/2)

    The law of the site is unchanged, and the latent `NAME_normal` is exactly
    :math:`N(0, I)` before it sees data. Use it for guides, which then have only the
    data to learn, and for chains that move centre, scale and radius. Where data push
    the site to the edge of its ball, :class:`BallReparam` is the better one.

    Example:
        >>> import pyro_geo.distributions as bounded
        >>> def model():
        ...     return pyro.sample("x", bounded.BoundedNormal(0.0, 1.0, radius=2.0))
        >>> moved = pyro.poutine.reparam(model, {"x": RadialGaussianReparam()})
        >>> list(pyro.poutine.trace(moved).get_trace().stochastic_nodes)
        ['x_normal']
    """

    suffix = "normal"

    def auxiliary(self, fn: Bounded) -> TorchDistribution:
        """A standard normal law."""
        one = torch.ones_like(fn.radius)
        if not fn.event_shape:
            return dist.Normal(torch.zeros_like(one), one, validate_args=False)
        one = one.unsqueeze(-1).expand(fn.batch_shape + fn.event_shape)
        normal = dist.Normal(torch.zeros_like(one), one, validate_args=False)
        return normal.to_event(1)

    def forward(self, fn: Bounded, auxiliary: Tensor) -> Tensor:
        """Point of the ball at a normal vector."""
        d, q = fn.radial.dim, _squared_length(fn, auxiliary)
        central = q < _CENTRAL
        s = torch.sqrt(torch.where(central, 1.0, q))
        normal = NormalRadial(d)
        log_p, log_q = normal.log_shares(s)
        r = fn.radial.quantile(log_p, log_q, fn.radius, fn.kappa)
        # near the centre both densities are flat: the ratio of radii is constant
        peak = fn.whitened_log_prob(torch.zeros_like(q), torch.zeros_like(central))
        limit = torch.exp((-0.5 * d * math.log(2 * math.pi) - peak) / d)
        return fn.unwhitened(_scaled(fn, torch.where(central, limit, r / s), auxiliary))

    def inverse(self, fn: Bounded, value: Tensor) -> Tensor:
        """Normal vector at a point of the ball."""
        z = fn.whitened(value)
        r = torch.sqrt(_squared_length(fn, z))
        inside, outside = fn.radial.shares(r, fn.radius, fn.kappa)
        # neither the centre nor the edge has a finite logarithm
        tiny = torch.finfo(r.dtype).tiny
        log_p, log_q = (torch.log(p.clamp(min=tiny)) for p in (inside, outside))
        s = NormalRadial(fn.radial.dim).radius_of(log_p, log_q)
        return _scaled(fn, s / r.clamp(min=tiny), z)
