"""What a tracker is made of: everything that is fixed before its first step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_geo.filtering.tracker.dynamics import Dynamics
from pyro_geo.filtering.tracker.measurements import Measurement
from pyro_geo.filtering.tracker.mixing import Bias, Blocks
from pyro_geo.filtering.tracker.sensors import SensorMode
from pyro_geo.filtering.tracker.slots import Slots

__all__ = ["Lanes", "Plan"]


class Plan(NamedTuple):
    """The fixed parts of a tracker.

    Attributes:
        slots: where the runs of each mode stand.
        dynamics: motions of the target.
        measurement: what a nominal sensor reports.
        faults: ways in which the sensor fails.
        speed: least and largest speed; None for any.
        sigma_points: whether a measurement is linearised by sigma points.
    """

    slots: Slots
    dynamics: tuple[Dynamics, ...]
    measurement: Measurement
    faults: tuple[SensorMode, ...]
    speed: tuple[float, float] | None
    sigma_points: bool


class Lanes(NamedTuple):
    """Lanes in the middle of a step.

    Attributes:
        mean: of the state, `(axes, *lanes)` for each order.
        cov: of the state, `(axes, axes, *lanes)` for each block.
        bias: of the report, in the lanes that have one.
        weight: of each lane, before the report.
    """

    mean: Blocks
    cov: Blocks
    bias: Bias | None
    weight: Tensor
