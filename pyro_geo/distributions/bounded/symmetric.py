"""Symmetric distributions of a number, cut off at an interval around their centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_geo.checks import check_shape
from pyro_geo.distributions.bounded._ball import Separation
from pyro_geo.distributions.bounded._bounded import Bounded, batch_of
from pyro_geo.distributions.bounded.radial import Radial

__all__ = ["BoundedSymmetric"]


class BoundedSymmetric(Bounded):
    r"""A symmetric distribution of a number on an interval around its centre.

    The one-dimensional
    :class:`~pyro_geo.distributions.bounded.elliptical.BoundedElliptical`, with a
    distribution function. With :math:`z = (x - \mu) / \sigma`,

    .. math:: p(x) = \frac{1}{Z \sigma} \, g(z^2) \,
        \left(1 - \frac{z^2}{\rho^2}\right)_+^\kappa , \quad |z| \le \rho

    Args:
        radial: the base in one dimension, without its centre and its scale.
        loc: centre; a number or `(*batch,)`.
        scale: a number or `(*batch,)`, above 0.
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
        >>> from pyro_geo.distributions.bounded.normal import NormalRadial
        >>> interval = BoundedSymmetric(NormalRadial(1), 0.0, 1.0, mass=0.5)
        >>> interval.icdf(torch.tensor([0.0, 0.5, 1.0]))
        tensor([-0.6745,  0.0000,  0.6745])
    """

    # torch declares a property that its own distributions override in this way
    arg_constraints: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        "loc": constraints.real,
        "scale": constraints.positive,
        "radius": constraints.positive,
    }

    def __init__(
        self,
        radial: Radial,
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
        check_shape("radial", (radial.dim,), (1,))
        rho = self._set_size(
            radial, radius, nats, mass, kappa, separation, validate_args
        )
        loc, scale = broadcast_all(loc, scale)
        batch = batch_of(radial, rho, loc.shape)
        self.loc, self.scale = loc.expand(batch), scale.expand(batch)
        self.radius = torch.as_tensor(rho, dtype=loc.dtype, device=loc.device)
        self.radius = self.radius.expand(batch)
        self._finish(batch, torch.Size(), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The interval."""
        reach = self.radius * self.scale
        return constraints.interval(self.loc - reach, self.loc + reach)

    @property
    def unit_support(self) -> constraints.Constraint:
        """The interval from -1 to 1, in units of the radius."""
        one = torch.ones_like(self.radius.detach().flatten()[0])
        return constraints.interval(-one, one)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Give the distribution a batch shape.

        Args:
            batch_shape: to which its own broadcasts.

        Returns:
            The distribution with expanded parameters.
        """
        return self._expanded(batch_shape, ("loc", "scale", "radius"))

    @property
    def mean(self) -> Tensor:
        """The centre."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The centre."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance, below that of the base."""
        return self.variance_factor() * self.scale.square()

    def entropy(self) -> Tensor:
        """Differential entropy, in nats.

        Returns:
            The entropy, `batch_shape`.
        """
        return self._whitened_entropy() + torch.log(self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density; minus infinity outside the interval.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The log-density, same shape.
        """
        self._check_value(value)
        z = self.whitened(value)
        # the ends, rounded as in the support
        reach = self.radius * self.scale
        outside = (value < self.loc - reach) | (value > self.loc + reach)
        return self.whitened_log_prob(z.square(), outside) - torch.log(self.scale)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw numbers; gradients flow to every parameter.

        Args:
            sample_shape: how many.

        Returns:
            Numbers, `(*sample_shape, *batch)`.
        """
        shape = torch.Size(sample_shape) + self.batch_shape
        side = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        z = torch.where(side < 0.5, -1.0, 1.0) * self._lengths(shape)
        return self.unwhitened(z)

    def whitened(self, value: Tensor) -> Tensor:
        """Numbers in units of the scale, from the centre.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The same, centred and scaled.
        """
        return (value - self.loc) / self.scale

    def unwhitened(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`whitened`.

        Args:
            z: centred and scaled numbers, `(*sample, *batch)`.

        Returns:
            Numbers of the distribution.
        """
        return self.loc + self.scale * z

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of lying below.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The probability, same shape.
        """
        self._check_value(value)
        return self._whitened_cdf(self.whitened(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Number below which a probability lies, differentiable.

        Args:
            value: probabilities, `(*sample, *batch)`.

        Returns:
            The numbers, same shape.
        """
        self._check_value(value)
        p = value.detach()
        smaller = torch.minimum(p, 1 - p)
        log_q = torch.log(2 * smaller)
        log_p = torch.log1p(-2 * smaller)
        middle = (smaller == 0) | (smaller == 0.5)  # both ends, and the centre
        log_p, log_q = (torch.where(middle, -0.7, x) for x in (log_p, log_q))
        with torch.no_grad():
            r = self.radial.quantile(log_p, log_q, self.radius, self.kappa)
            r = torch.where(smaller == 0.5, 0.0, r)
            z = torch.where(p < 0.5, -r, r)
            slope = torch.exp(
                self.whitened_log_prob(z.square(), torch.zeros_like(middle))
            )
        # the implicit function theorem, as one step of Newton's method
        z = z + (value - self._whitened_cdf(z)) / slope
        z = torch.where(smaller == 0, torch.sign(p - 0.5) * self.radius, z)
        return self.unwhitened(torch.where((p < 0) | (p > 1), torch.nan, z))

    def _whitened_cdf(self, z: Tensor) -> Tensor:
        r = torch.minimum(z.abs(), self.radius)
        inside, outside = self.radial.shares(r, self.radius, self.kappa)
        # each side from the end it is near to, so that no digit is lost
        return torch.where(z < 0, 0.5 * outside, 0.5 + 0.5 * inside)
