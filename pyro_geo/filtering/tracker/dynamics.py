"""How a target moves: linear motions that act alike on every axis of space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo._showing import Made
from pyro_geo.checks import check_count, check_number

__all__ = ["Cruise", "Dynamics", "Level", "NearConstantVelocity", "Table"]

Table: TypeAlias = Sequence[Sequence[Tensor | float]]
"""A small matrix written out; the numbers 0.0 and 1.0 cost nothing."""

_SERIES_BELOW = 0.1  # of dt / tau, where the closed form loses digits


class Dynamics(Made, ABC):
    r"""A linear motion with Gaussian noise, the same along each axis of space.

    The state is `orders` vectors of `axes` numbers: position first, then velocity and
    whatever else moves it. In a step of length `dt` it becomes

    .. math:: x' = (F(dt) \otimes I)\, x + w, \qquad w \sim N(0, Q(dt) \otimes I).

    Subclass it for a motion of your own: say :meth:`transition` and :meth:`noise`. A
    motion that couples its axes has `axes=1` and one order for each component.

    Args:
        orders: vectors in the state.
        axes: dimensions of space.
        values: its numbers that may be learned, the first argument `q` below.
        start_sd: standard deviation of each order but the first when a track starts.
        velocity: weight of each order in the velocity; None where there is none.

    Example:
        >>> class Damped(Dynamics):
        ...     def __init__(self, q, rate):
        ...         super().__init__(2, 2, (q, rate), (10.0,), (0.0, 1.0))
        ...
        ...     def transition(self, dt, q):
        ...         slow = torch.exp(-q[1] * dt)
        ...         return ((1.0, (1 - slow) / q[1]), (0.0, slow))
        ...
        ...     def noise(self, dt, q):
        ...         return ((0.0, 0.0), (0.0, q[0] * dt))
        >>> Damped(1.0, 0.1).values
        (1.0, 0.1)
    """

    def __init__(
        self,
        orders: int,
        axes: int,
        values: Sequence[float],
        start_sd: Sequence[float],
        velocity: Sequence[float] | None,
    ) -> None:
        check_count("orders", orders)
        check_count("axes", axes)
        self.orders = orders
        self.axes = axes
        self.values = tuple(map(float, values))
        self.start_sd = tuple(map(float, start_sd))
        self.velocity = velocity

    @abstractmethod
    def transition(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Give the matrix that moves the state.

        Args:
            dt: time that passes, not negative.
            q: the numbers that may be learned; each broadcasts against `dt`.

        Returns:
            The matrix, `orders` rows of `orders` entries; plain 0.0 and 1.0 where an
            entry does not depend on the time.
        """

    @abstractmethod
    def noise(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Give the covariance of what the motion adds, as :meth:`transition` does.

        Args:
            dt: time that passes, not negative.
            q: the numbers that may be learned.

        Returns:
            The covariance for one axis, symmetric; only `[a][b]` with `a <= b` is read.
        """


class NearConstantVelocity(Dynamics):
    r"""Constant velocity, driven by white acceleration.

    .. math:: F = \begin{pmatrix} 1 & t \\ 0 & 1 \end{pmatrix}, \qquad
        Q = q \begin{pmatrix} t^3/3 & t^2/2 \\ t^2/2 & t \end{pmatrix}

    Args:
        q: spectral density of the acceleration, in square length over cube time.
        axes: dimensions of space.
        speed_sd: standard deviation of each velocity when a track starts; ten times
            what the acceleration changes in one unit of time where left out.

    References:
        Bar-Shalom, Li and Kirubarajan (2001), Estimation with Applications to Tracking
        and Navigation, section 6.2.

    Example:
        >>> motion = NearConstantVelocity(0.5)
        >>> motion.transition(torch.tensor(2.0), [torch.tensor(0.5)])[0]
        (1.0, tensor(2.))
    """

    def __init__(
        self, q: float, axes: int = 2, *, speed_sd: float | None = None
    ) -> None:
        check_number("q", q, strict=True)
        check_number("speed_sd", speed_sd, strict=True)
        sd = 10.0 * q**0.5 if speed_sd is None else speed_sd
        super().__init__(2, axes, (q,), (sd,), (0.0, 1.0))

    def transition(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Move the position by the velocity; see :meth:`Dynamics.transition`."""
        return ((1.0, dt), (0.0, 1.0))

    def noise(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Integrate white acceleration; see :meth:`Dynamics.noise`."""
        speed = q[0] * dt
        both = speed * dt / 2
        return ((speed * dt * dt / 3, both), (both, speed))


class Cruise(Dynamics):
    r"""A slow velocity and an excursion from it that dies out.

    The velocity is the sum of a slow random walk and a stationary Ornstein-Uhlenbeck
    process with standard deviation `sd` and time `tau`. Without reports the position is
    known to within about :math:`sd \sqrt{2 \tau t}`: it grows as the square root of the
    time, and not as its power 1.5 as under :class:`NearConstantVelocity`.

    Args:
        walk: spectral density of the acceleration of the slow velocity.
        sd: standard deviation of the excursion along each axis.
        tau: time in which the excursion is forgotten.
        axes: dimensions of space.
        speed_sd: standard deviation of each slow velocity when a track starts.

    Example:
        >>> motion = Cruise(sd=40.0, tau=300.0)
        >>> numbers = [torch.tensor(v) for v in motion.values]
        >>> round(motion.noise(torch.tensor(1e6), numbers)[2][2].item())
        1600
    """

    @positional("axes")
    def __init__(
        self,
        walk: float = 1e-2,
        sd: float = 40.0,
        tau: float = 300.0,
        *,
        axes: int = 2,
        speed_sd: float = 200.0,
    ) -> None:
        check_number("walk", walk, strict=True)
        check_number("sd", sd, strict=True)
        check_number("tau", tau, strict=True)
        check_number("speed_sd", speed_sd, strict=True)
        super().__init__(3, axes, (walk, sd, tau), (speed_sd, sd), (0.0, 1.0, 1.0))

    def transition(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Move by both velocities and forget the excursion."""
        tau = q[2]
        gone = -torch.expm1(-dt / tau)
        return ((1.0, dt, tau * gone), (0.0, 1.0, 0.0), (0.0, 0.0, 1 - gone))

    def noise(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Integrate the walk and the excursion exactly over the step."""
        walk, sd, tau = q
        z = dt / tau
        gone = -torch.expm1(-z)
        speed, both = walk * dt, walk * dt * dt / 2
        variance = sd * sd
        # position, position and excursion, excursion
        pp = 2 * variance * tau * tau * _integrated(z, gone)
        pe = variance * tau * gone * gone
        ee = variance * gone * (2 - gone)
        return (
            (walk * dt * dt * dt / 3 + pp, both, pe),
            (both, speed, 0.0),
            (pe, 0.0, ee),
        )


def _integrated(z: Tensor, gone: Tensor) -> Tensor:
    """Compute `z - 2 (1 - e^-z) + (1 - e^-2z) / 2`, also where it cancels."""
    direct = z - gone - gone * gone / 2
    # sum over k >= 3 of (-1)^k (2 - 2^(k-1)) z^k / k!, by Horner's rule
    small = torch.where(z < _SERIES_BELOW, z, 0.0)
    series, factorial = torch.zeros_like(z), 39916800.0
    for k in range(11, 2, -1):
        coefficient = (-1) ** k * (2.0 - 2.0 ** (k - 1)) / factorial
        series = series * small + coefficient
        factorial /= k
    return torch.where(z < _SERIES_BELOW, series * small**3, direct)


class Level(Dynamics):
    """A level that walks: the state is the level alone.

    Two of them, one with a large `q`, are a level that jumps.

    Args:
        q: variance that the level gains in one unit of time.
        axes: numbers in the level.

    Example:
        >>> Level(0.1).noise(torch.tensor(2.0), [torch.tensor(0.1)])
        ((tensor(0.2000),),)
    """

    def __init__(self, q: float, axes: int = 1) -> None:
        check_number("q", q, strict=True)
        super().__init__(1, axes, (q,), (), None)

    def transition(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Leave the level where it is."""
        return ((1.0,),)

    def noise(self, dt: Tensor, q: Sequence[Tensor]) -> Table:
        """Add variance in proportion to the time."""
        return ((q[0] * dt,),)
