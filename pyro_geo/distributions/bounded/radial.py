r"""Laws of a radius: what a spherical base must supply to be bounded.

A base has a density :math:`g(|z|^2)` of a whitened vector :math:`z` in `dim`
dimensions. On the ball of a radius :math:`\rho`, weighted by the field
:math:`(1 - r^2/\rho^2)^\kappa`, all that a bounded distribution asks for is an
integral over the radius alone. A base writes down `g`; every integral has a default,
and a base that knows one in closed form overrides it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_geo.distributions.bounded._quadrature import Grid, make_grid
from pyro_geo.distributions.bounded._quantile import quantile

__all__ = ["Radial"]

_NEWTON_STEPS = 20
_DEEP = -690.0
_REST = math.log(-math.expm1(-1.0))


class Radial(ABC):
    r"""A spherical base, by the density of its whitened vectors.

    .. math:: p(r) \propto r^{d-1} \, g(r^2) \, (1 - r^2/\rho^2)^\kappa,
        \quad 0 \le r \le \rho

    Radii and parameters are tensors of a common batch shape; what is asked at several
    points has them on leading axes, so that parameters broadcast by themselves.

    Args:
        dim: number of dimensions.

    Example:
        >>> class Laplace(Radial):
        ...     def log_density(self, r2):
        ...         return -torch.sqrt(r2) - math.log(2)
        >>> mass = Laplace(1).log_mass(torch.tensor(2.0)).exp()
        >>> torch.isclose(mass, 1 - torch.exp(torch.tensor(-2.0)))
        tensor(True)
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim

    @abstractmethod
    def log_density(self, r2: Tensor) -> Tensor:
        """Normalised log-density of a whitened vector, given its squared length.

        Args:
            r2: squared lengths, `(..., *batch)`.

        Returns:
            The log-density in `dim` dimensions, same shape.
        """

    def parameters(self) -> tuple[Tensor, ...]:
        """Tensors that the base depends on; they broadcast with the batch."""
        return ()

    def arguments(self) -> tuple[Any, ...]:
        """Numbers to make the base with again, where it has no parameters."""
        return (self.dim,)

    def expand(self, batch_shape: Sequence[int]) -> Self:
        """Give all parameters a batch shape.

        Args:
            batch_shape: to which they broadcast.

        Returns:
            A copy with expanded parameters.
        """
        new = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(new, name, value.expand(torch.Size(batch_shape)))
        return new

    def log_mass(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability of a ball under the base.

        Args:
            radius: of the ball, `(*batch,)`.

        Returns:
            The logarithm, same shape.
        """
        return self.log_shares(radius)[0]

    def log_tail(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability outside a ball.

        Args:
            radius: of the ball, `(*batch,)`.

        Returns:
            The logarithm, same shape.
        """
        return self.log_shares(radius)[1]

    def log_shares(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a ball and of what is outside, under the base.

        Both are integrals. The larger is taken from the smaller one, which has more
        digits.

        Args:
            radius: of the ball, `(*batch,)`.

        Returns:
            Two logarithms, same shape as the radius.
        """

        # outside, r = radius / t
        def integrand(t: Tensor, rest: Tensor) -> Tensor:
            value = self.log_density((radius / t).square())
            return value - (self.dim + 1) * torch.log(t)

        grid = make_grid(integrand, self._like(radius))
        tail = (integrand(grid.t, grid.rest) + grid.log_weight).logsumexp(0)
        tail = tail + self._log_shell(radius)
        mass = self._log_integral(radius, 0.0)
        inner = mass < tail
        small = torch.where(inner, mass, tail)
        large = torch.log1p(-torch.exp(small.clamp(max=-1e-3)))
        return torch.where(inner, small, large), torch.where(inner, large, small)

    def log_normalizer(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        r"""Logarithm of the mean of the field under the base.

        .. math:: \log \int_{|z| < \rho} g(|z|^2) (1 - |z|^2/\rho^2)^\kappa \, dz

        Args:
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The logarithm, same shape; the log-mass of the ball if `kappa` is 0.
        """
        return self._log_integral(radius, kappa) if kappa else self.log_mass(radius)

    def second_moment(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Mean of the squared radius on the ball.

        Args:
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The mean, same shape.
        """
        grid, heights = self._heights(radius, kappa)
        return (heights.softmax(0) * grid.t.square()).sum(0) * radius.square()

    def mean_log_field(self, radius: Tensor, kappa: float) -> Tensor:
        r"""Mean of :math:`\log(1 - r^2/\rho^2)` on the ball.

        Args:
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The mean, same shape.
        """
        grid, heights = self._heights(radius, kappa)
        return (heights.softmax(0) * _log_field(grid.t, grid.rest)).sum(0)

    def mean_log_density(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Mean of the log-density of the base on the ball.

        Args:
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The mean, same shape.
        """
        grid, heights = self._heights(radius, kappa)
        values = self.log_density((radius * grid.t).square())
        return (heights.softmax(0) * values).sum(0)

    def radius_of(self, log_mass: Tensor, log_tail: Tensor) -> Tensor:
        """Radius of the ball of a given mass, differentiable.

        Args:
            log_mass: logarithm of the mass, `(*batch,)`.
            log_tail: logarithm of the mass outside: what is rounded away in one of
                the two stands in the other.

        Returns:
            The radius, same shape.
        """
        logit = log_mass - log_tail
        log_radius = torch.zeros_like(logit).detach()
        with torch.no_grad():
            for _ in range(_NEWTON_STEPS):
                step = self._newton(log_radius, logit.detach())
                # to the right the log-odds may grow ever faster
                log_radius = log_radius + step.clamp(max=2.0)
        # Two differentiated steps: one would give the first derivative of the
        # solution, two give the second as well.
        log_radius = log_radius.detach()
        for _ in range(2):
            log_radius = log_radius + self._newton(log_radius, logit)
        return torch.exp(log_radius)

    def _newton(self, log_radius: Tensor, logit: Tensor) -> Tensor:
        """Step of Newton's method for the log-odds of the mass of a ball."""
        radius = torch.exp(log_radius)
        log_mass, log_tail = self.log_shares(radius)
        density = self.log_density(radius.square()) + self._log_shell(radius)
        slope = torch.exp(density - log_mass - log_tail)
        return (logit - log_mass + log_tail) / slope

    def quantile(
        self, log_p: Tensor, log_q: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> Tensor:
        """Radius below which a point of the ball lies with a given probability.

        It is differentiable in the probability, the radius of the ball and the
        parameters, by the implicit function theorem.

        Args:
            log_p: logarithm of the probability, `(..., *batch)`.
            log_q: logarithm of 1 minus it, for the digits that the other has lost.
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The radius, same shape as `log_p`.
        """

        def shape(t: Tensor, rest: Tensor) -> Tensor:
            return self.log_shape(t, rest, radius, kappa)

        like = self._like(radius).to(log_p.dtype)
        deep = log_p < _DEEP
        safe_p = torch.where(deep, -1.0, log_p)
        t = quantile(shape, like, safe_p, torch.where(deep, _REST, log_q))
        # so deep that no double holds the probability, the density is that at 0
        peak = self.log_density(torch.zeros_like(radius)) + _log_area(self.dim)
        log_z = self.log_normalizer(radius, kappa)
        log_r = (log_p + log_z - peak + math.log(self.dim)) / self.dim
        return torch.where(deep, torch.exp(torch.where(deep, log_r, 0.0)), radius * t)

    def shares(
        self, r: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of lying closer than `r` in the ball, and further out.

        Args:
            r: radii up to that of the ball, `(..., *batch)`.
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            Two probabilities, same shape as `r`, each with all its digits.
        """
        t = (r / radius).clamp(max=1.0)
        like = self._like(t)

        def inside(share: Tensor, rest: Tensor) -> Tensor:
            return self.log_shape(t * share, (1 - t) + t * rest, radius, kappa)

        def outside(share: Tensor, rest: Tensor) -> Tensor:
            return self.log_shape(t + (1 - t) * share, (1 - t) * rest, radius, kappa)

        parts = []
        for integrand, width in ((inside, t), (outside, 1 - t)):
            none = width <= 0
            grid = make_grid(integrand, like)
            total = (integrand(grid.t, grid.rest) + grid.log_weight).logsumexp(0)
            log_width = torch.log(torch.where(none, 1.0, width))
            parts.append(torch.where(none, 0.0, torch.exp(total + log_width)))
        total = parts[0] + parts[1]
        return parts[0] / total, parts[1] / total

    def draw(self, u: Tensor, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Radii of points of the ball at uniform numbers.

        Args:
            u: numbers inside (0, 1), in double precision, `(..., *batch)`.
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            Radii, same shape as `u`, with the derivatives of the quantile.
        """
        log_p, log_q = torch.log(u), torch.log1p(-u)
        r = self.quantile(log_p, log_q, radius.double(), kappa)
        return r.to(radius.dtype)

    def _log_integral(self, radius: Tensor, kappa: float) -> Tensor:
        """Logarithm of the integral of the base times the field over the ball."""
        return self._heights(radius, kappa)[1].logsumexp(0) + self._log_shell(radius)

    def _log_shell(self, radius: Tensor) -> Tensor:
        """Log-area of a sphere, times its radius."""
        return _log_area(self.dim) + self.dim * torch.log(radius)

    def _like(self, radius: Tensor) -> Tensor:
        """A tensor of the batch shape of the radius and all parameters."""
        for parameter in self.parameters():
            radius = radius + torch.zeros_like(parameter)
        return radius

    def log_shape(
        self, t: Tensor, rest: Tensor, radius: Tensor, kappa: float
    ) -> Tensor:
        """Unnormalised log-density of `t = r / radius`.

        Args:
            t: points in (0, 1), `(..., *batch)`.
            rest: `1 - t`.
            radius: of the ball, `(*batch,)`.
            kappa: power of the field.

        Returns:
            The logarithm, same shape as `t`.
        """
        value = self.log_density((radius * t).square())
        value = value + (self.dim - 1) * torch.log(t)
        return value + kappa * _log_field(t, rest) if kappa else value

    def _heights(self, radius: Tensor, kappa: float) -> tuple[Grid, Tensor]:
        """Nodes, and the logarithms of what each adds to the integral."""

        def integrand(t: Tensor, rest: Tensor) -> Tensor:
            return self.log_shape(t, rest, radius, kappa)

        grid = make_grid(integrand, self._like(radius))
        return grid, integrand(grid.t, grid.rest) + grid.log_weight


def _log_area(dim: int) -> float:
    """Logarithm of the area of the unit sphere."""
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def _log_field(t: Tensor, rest: Tensor) -> Tensor:
    """Logarithm of `1 - t^2`."""
    return torch.log(rest) + torch.log1p(t)
