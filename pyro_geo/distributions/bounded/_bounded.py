"""What bounded distributions around a centre share, in one dimension and in many."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.torch import constants, validates
from pyro_geo.checks import check_shape
from pyro_geo.distributions.bounded._ball import (
    Separation,
    Size,
    check_kappa,
    size_of,
)
from pyro_geo.distributions.bounded._tensors import log_field
from pyro_geo.distributions.bounded.radial import Radial
from pyro_geo.errors import BallSpecError

__all__ = ["Bounded", "batch_of", "uniforms"]


class Bounded(TorchDistribution):
    """A base with a centre, cut off at a radius and weighted by a field.

    A subclass has whitened coordinates, a support and moments; this class has the size
    of the ball and what depends on the radius alone.
    """

    has_rsample = True
    radial: Radial
    radius: Tensor
    kappa: float
    # numbers where the ball is given by numbers: no graph computes them again
    _log_normalizer: float | None
    _log_mass: float | None

    def _set_size(
        self,
        radial: Radial,
        radius: float | Tensor | None,
        nats: float | Tensor | None,
        mass: float | Tensor | None,
        kappa: float,
        separation: Separation,
        validate_args: bool | None,
    ) -> float | Tensor:
        """Keep the base and the field, and turn the size into a radius.

        Returns:
            The radius, a number where the size is one and the base has no parameters.

        Raises:
            BallSpecError: a field beside nats that count tails.
        """
        checks = validates(self) if validate_args is None else validate_args
        size = size_of(radius, nats, mass, separation, checks)
        self.radial, self.kappa = radial, check_kappa(kappa)
        if self.kappa and size.kind == "log_tail":
            raise BallSpecError(
                "a field falls with the squared radius, not with tail nats",
                where="arguments separation and kappa",
                found=f"separation 'tail' and kappa {self.kappa:g}",
                expected="kappa 0 beside tail nats",
                todo="Pass mass = 1 - exp(-nats) for that ball and this field.",
            )
        self._log_normalizer = self._log_mass = None
        fixed = not radial.parameters()
        if fixed and not isinstance(size.value, Tensor):
            kind = type(radial), radial.arguments()
            number = _radius(*kind, size.kind, float(size.value))
            self._log_mass, self._log_normalizer = _logs(*kind, number, self.kappa)
            return number
        return _radius_tensor(radial, size)

    def _finish(
        self,
        batch_shape: torch.Size,
        event_shape: torch.Size,
        validate_args: bool | None,
    ) -> None:
        self.radial = self.radial.expand(batch_shape)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @property
    @abstractmethod
    def unit_support(self) -> constraints.Constraint:
        """The unit ball, of whitened values in units of the radius."""

    @abstractmethod
    def whitened(self, value: Tensor) -> Tensor:
        """Values in coordinates of centre 0 and scale 1."""

    @abstractmethod
    def unwhitened(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`whitened`."""

    @property
    def log_mass(self) -> Tensor:
        """Logarithm of the probability of the ball under the base, `batch_shape`."""
        if self._log_mass is not None:
            return torch.full_like(self.radius, self._log_mass)
        return self.radial.log_mass(self.radius)

    @property
    def log_normalizer(self) -> Tensor:
        r"""Logarithm of the mean of the field under the base; `log_mass` for no field.

        With :math:`I / c` the squared radius over that of the ball,

        .. math:: \log Z = \log E[(1 - I/c)_+^\kappa]
        """
        return torch.zeros_like(self.radius) + self._log_total()

    def _log_total(self) -> float | Tensor:
        """Logarithm of the integral of the base times the field."""
        if self._log_normalizer is not None:
            return self._log_normalizer
        return self.radial.log_normalizer(self.radius, self.kappa)

    def kl_to_base(self) -> Tensor:
        r"""Divergence from the base, in nats, `batch_shape`.

        .. math:: \mathrm{KL} = -\log Z + \kappa \, E[\log(1 - I/c)]

        Without a field it is minus the log-mass of the ball.

        Returns:
            The divergence.
        """
        return self._mean_field() - self.log_normalizer

    def _mean_field(self) -> float | Tensor:
        """Mean of the logarithm of the field."""
        if not self.kappa:
            return 0.0
        return self.kappa * self.radial.mean_log_field(self.radius, self.kappa)

    def _whitened_entropy(self) -> Tensor:
        """Entropy of the whitened vector."""
        mean = self.radial.mean_log_density(self.radius, self.kappa)
        return self._log_total() - self._mean_field() - mean

    def variance_factor(self) -> Tensor:
        """Variance of each whitened coordinate.

        Returns:
            The variance, `batch_shape`.
        """
        moment = self.radial.second_moment(self.radius, self.kappa)
        return moment / self.radial.dim

    def whitened_log_prob(self, r2: Tensor, outside: Tensor) -> Tensor:
        """Log-density of a whitened vector; its gradient is finite everywhere.

        Args:
            r2: squared length, `(*sample, *batch)`.
            outside: where the vector is outside the ball.

        Returns:
            The log-density, minus infinity outside.
        """
        s = torch.where(outside, 0.0, r2 / self.radius.square())
        value = self.radial.log_density(s * self.radius.square())
        if self.kappa:
            value = value + log_field(s, self.kappa)
        return torch.where(outside, -torch.inf, value - self._log_total())

    def _lengths(self, shape: torch.Size) -> Tensor:
        """Random radii of a shape."""
        return self.radial.draw(uniforms(shape, self.radius), self.radius, self.kappa)

    def _check_value(self, value: Tensor) -> None:
        """Refuse a value of the wrong shape; any place is allowed."""
        if validates(self):
            shape = self.batch_shape + self.event_shape
            fits = _broadcasts(value.shape, shape, len(self.event_shape))
            check_shape("value", value.shape, f"{tuple(shape)}, broadcast", fits)

    def _expanded(self, batch_shape: Sequence[int], names: Sequence[str]) -> Self:
        """Copy with some attributes expanded to a batch shape."""
        batch_shape = torch.Size(batch_shape)
        new = copy.copy(self)
        for name in names:
            value = getattr(self, name)
            tail = value.shape[len(self.batch_shape) :]
            setattr(new, name, value.expand(batch_shape + tail))
        new.radial = self.radial.expand(batch_shape)
        TorchDistribution.__init__(
            new, batch_shape, self.event_shape, validate_args=validates(self)
        )
        return new


def uniforms(shape: torch.Size, like: Tensor) -> Tensor:
    """Uniform numbers inside (0, 1), never 0, in double precision."""
    u = torch.rand(shape, dtype=torch.float64, device=like.device)
    return u.clamp(min=2.0**-54)


def batch_of(radial: Radial, radius: float | Tensor, *shapes: torch.Size) -> torch.Size:
    """Batch shape of the parameters of a base, a radius, and what else is given."""
    tensors = [*radial.parameters()]
    if isinstance(radius, Tensor):
        tensors.append(radius)
    return torch.broadcast_shapes(*shapes, *(tensor.shape for tensor in tensors))


def _broadcasts(found: torch.Size, shape: torch.Size, event: int) -> bool:
    if len(found) < event or found[len(found) - event :] != shape[len(shape) - event :]:
        return False
    pairs = zip(reversed(found), reversed(shape), strict=False)
    return all(1 in pair or pair[0] == pair[1] for pair in pairs)


def _radius_tensor(radial: Radial, size: Size) -> Tensor:
    value = size.value
    if not isinstance(value, Tensor):
        like = radial.parameters()[0] if radial.parameters() else torch.zeros(())
        value = torch.full_like(like.detach(), value)
    if size.kind == "radius":
        return value
    if size.kind == "mass":
        return radial.radius_of(torch.log(value), torch.log1p(-value))
    return radial.radius_of(torch.log(-torch.expm1(value)), value)


@lru_cache(maxsize=4096)
def _radius(
    radial: type[Radial], arguments: tuple[Any, ...], kind: str, value: float
) -> float:
    """Radius of a ball whose size is a number, found once."""
    if kind == "radius":
        return value
    with constants(), torch.no_grad():
        size = Size(kind, torch.tensor(value, dtype=torch.float64))  # pyright: ignore
        return float(_radius_tensor(radial(*arguments), size))


@lru_cache(maxsize=4096)
def _logs(
    radial: type[Radial], arguments: tuple[Any, ...], radius: float, kappa: float
) -> tuple[float, float]:
    """Log-mass and log-normaliser of a ball whose radius is a number, found once."""
    with constants(), torch.no_grad():
        rho = torch.tensor(radius, dtype=torch.float64)
        base = radial(*arguments)
        return float(base.log_mass(rho)), float(base.log_normalizer(rho, kappa))
