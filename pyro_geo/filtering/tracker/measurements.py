"""What a nominal sensor reports of a state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp

from pyro_geo._showing import Made
from pyro_geo.checks import check_count

__all__ = ["derivatives", "Measurement", "Position", "RangeBearing", "wrapped_angle"]


def wrapped_angle(angle: Tensor) -> Tensor:
    """Bring an angle to within half a turn of zero.

    Args:
        angle: in radians.

    Returns:
        The same angle in [-pi, pi], continuous at zero.

    Example:
        >>> round(wrapped_angle(torch.tensor(6.0)).item(), 4)
        -0.2832
    """
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))


class Measurement(Made, ABC):
    r"""A report :math:`y = h(x) + v` of a state, lanes last.

    Subclass it for a sensor of your own: say :meth:`predict` and :meth:`locate`, and
    :meth:`residual` where a number is an angle. Derivatives are taken automatically.

    Args:
        size: numbers in a report, 1 to 4.
        reads: orders of the state that the report depends on: 0 for the position, 1
            for the velocity.

    Example:
        >>> class Range(Measurement):
        ...     def predict(self, x):
        ...         return x[0].square().sum(0, keepdim=True).sqrt()
        ...
        ...     def locate(self, y):
        ...         return torch.cat([y, torch.zeros_like(y)])
        >>> Range(1).predict([torch.tensor([[3.0], [4.0]])]).tolist()
        [[5.0]]
    """

    # whether the report is the position itself, so that nothing need be derived
    identity: bool = False
    linear: bool = False

    def __init__(self, size: int, reads: Sequence[int] = (0,)) -> None:
        check_count("size", size)
        self.size = size
        self.reads = tuple(reads)

    @abstractmethod
    def predict(self, x: Sequence[Tensor]) -> Tensor:
        """Predict the report of a state.

        Args:
            x: the orders of the state that :attr:`reads` names, in that order, each
                `(axes, *lanes)`.

        Returns:
            The report without noise, `(m, *lanes)`.
        """

    def residual(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Subtract a prediction from a report.

        Args:
            y: report, `(m, *lanes)`.
            prediction: of it, `(m, *lanes)`.

        Returns:
            The difference, wrapped where it is an angle.
        """
        return y - prediction

    @abstractmethod
    def locate(self, y: Tensor) -> Tensor:
        """Find the place that a track starts at.

        Args:
            y: its first report, `(m, *lanes)`.

        Returns:
            A position that gives such a report, `(axes, *lanes)`.
        """

    def slope(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Differentiate :meth:`predict`; automatically, unless a subclass knows better.

        Args:
            x: the orders that are read, each `(axes, *lanes)`.

        Returns:
            Derivatives in each order, `(m, axes, *lanes)`.
        """
        return derivatives(self.predict, x)

    def locate_slope(self, y: Tensor) -> Tensor:
        """Differentiate :meth:`locate`, likewise.

        Args:
            y: reports, `(m, *lanes)`.

        Returns:
            Derivatives, `(axes, m, *lanes)`.
        """
        return derivatives(lambda z: self.locate(z[0]), (y,))[0]


def derivatives(
    fn: Callable[[Sequence[Tensor]], Tensor], x: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Differentiate a function of a state in every lane at once, forwards.

    Args:
        fn: takes orders `(axes, *lanes)`, gives `(m, *lanes)`, lane by lane.
        x: the orders to differentiate at.

    Returns:
        For each order its derivatives, `(m, axes, *lanes)`.
    """
    zeros = [torch.zeros_like(order) for order in x]
    slopes = []
    for a, order in enumerate(x):
        columns = []
        for axis in range(order.shape[0]):
            rows = [zeros[a][:1]] * order.shape[0]
            rows[axis] = torch.ones_like(rows[axis])
            tangent = [*zeros[:a], torch.cat(rows), *zeros[a + 1 :]]
            columns.append(jvp(lambda *z: fn(z), tuple(x), tuple(tangent))[1])
        slopes.append(torch.stack(columns, 1))
    return tuple(slopes)


class Position(Measurement):
    """The position itself, each axis once.

    Args:
        axes: dimensions of space.

    Example:
        >>> Position(2).size
        2
    """

    identity = True
    linear = True

    def __init__(self, axes: int = 2) -> None:
        super().__init__(axes)

    def predict(self, x: Sequence[Tensor]) -> Tensor:
        """Report the position; see :meth:`Measurement.predict`."""
        return x[0]

    def locate(self, y: Tensor) -> Tensor:
        """Take the report for the position; see :meth:`Measurement.locate`."""
        return y


class RangeBearing(Measurement):
    r"""Distance and direction from a fixed sensor in the plane, as a LiDAR reports.

    .. math:: h(x) = (|x - o|, \; \mathrm{atan2}(x_2 - o_2, x_1 - o_1))

    Args:
        origin: where the sensor stands.

    Example:
        >>> sensor = RangeBearing()
        >>> y = sensor.predict([torch.tensor([[0.0], [2.0]])])
        >>> y.flatten().tolist()
        [2.0, 1.5707963705062866]
    """

    def __init__(self, origin: Sequence[float] = (0.0, 0.0)) -> None:
        super().__init__(2)
        self.origin = tuple(map(float, origin))

    def predict(self, x: Sequence[Tensor]) -> Tensor:
        """Measure distance and direction; see :meth:`Measurement.predict`."""
        east, north, square = self._seen(x[0])
        return torch.stack([square.sqrt(), torch.atan2(north, east)])

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        east, north = x[0] - self.origin[0], x[1] - self.origin[1]
        # a target on top of the sensor has no direction, and its gradient no size
        return east, north, (east * east + north * north).clamp(min=1e-12)

    def slope(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Turn to the target; see :meth:`Measurement.slope`."""
        east, north, square = self._seen(x[0])
        far = square.rsqrt()
        away, across = [east * far, north * far], [-north / square, east / square]
        return (torch.stack([*away, *across]).unflatten(0, (2, 2)),)

    def locate_slope(self, y: Tensor) -> Tensor:
        """Turn to the target; see :meth:`Measurement.locate_slope`."""
        cos, sin = torch.cos(y[1]), torch.sin(y[1])
        rows = [cos, -y[0] * sin, sin, y[0] * cos]
        return torch.stack(rows).unflatten(0, (2, 2))

    def residual(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Subtract, going the short way round; see :meth:`Measurement.residual`."""
        gap = wrapped_angle(y[1] - prediction[1])
        return torch.stack([y[0] - prediction[0], gap])

    def locate(self, y: Tensor) -> Tensor:
        """Go the distance in that direction; see :meth:`Measurement.locate`."""
        return torch.stack(
            [
                self.origin[0] + y[0] * torch.cos(y[1]),
                self.origin[1] + y[0] * torch.sin(y[1]),
            ]
        )
