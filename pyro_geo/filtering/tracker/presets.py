"""Settings of the tracker for a domain each, with nothing to tune from case to case."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

from pyro_geo.checks import check_number
from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering.tracker.dynamics import (
    Cruise,
    Dynamics,
    Level,
    NearConstantVelocity,
)
from pyro_geo.filtering.tracker.measurements import (
    Measurement,
    Position,
    RangeBearing,
)
from pyro_geo.filtering.tracker.sensors import (
    Biased,
    Decoy,
    Random,
    SensorMode,
    Stuck,
)

__all__ = ["PRESETS", "Preset", "preset"]


class Preset(NamedTuple):
    """What a tracker of a domain is made with.

    Attributes:
        dynamics: motions of the target.
        measurement: what a nominal sensor reports.
        noise: standard deviation of each number of a report.
        faults: ways in which the sensor fails.
        keep: runs kept of each mode in which the state learns.
        p_fault: chance that a nominal sensor fails at the next report.
        speed: least and largest speed.
        hold: chance that the target keeps its dynamics from one step to the next.
    """

    dynamics: tuple[Dynamics, ...]
    measurement: Measurement
    noise: tuple[float, ...]
    faults: tuple[SensorMode, ...]
    keep: int = 2
    p_fault: float = 0.05
    speed: tuple[float, float] | None = None
    hold: float = 0.95


def _pair(noise: float | tuple[float, ...]) -> tuple[float, float]:
    if isinstance(noise, int | float):
        return (float(noise), float(noise))
    return (float(noise[0]), float(noise[1]))


def _repeats(noise: float | tuple[float, ...], part: float) -> tuple[float, float]:
    """Spread of repeated reports: far below the noise, whatever the unit is."""
    x, y = _pair(noise)
    return (x / part, y / part)


def _terminal(noise: float | tuple[float, ...]) -> Preset:
    return Preset(
        (
            NearConstantVelocity(0.5, speed_sd=150.0),
            NearConstantVelocity(60.0, speed_sd=150.0),
        ),
        Position(2),
        _pair(noise),
        (Random(1000.0), Biased(300.0), Stuck(_repeats(noise, 30.0))),
    )


def _en_route(noise: float | tuple[float, ...]) -> Preset:
    return Preset(
        (Cruise(),),
        Position(2),
        _pair(noise),
        (
            Random(5000.0, clutter=4e-12),
            Biased(1000.0),
            Stuck(_repeats(noise, 30.0)),
            Decoy(50.0),
        ),
        speed=(60.0, 320.0),
    )


def _lidar(noise: float | tuple[float, ...]) -> Preset:
    return Preset(
        (
            NearConstantVelocity(0.1, speed_sd=10.0),
            NearConstantVelocity(15.0, speed_sd=10.0),
        ),
        RangeBearing(),
        _pair(noise),
        (Random((5.0, 0.02), clutter=2.7e-3), Biased((5.0, 0.015)), Stuck()),
        p_fault=0.03,
        hold=0.98,
    )


def _rover(noise: float | tuple[float, ...]) -> Preset:
    return Preset(
        (
            NearConstantVelocity(0.01, speed_sd=2.0),
            NearConstantVelocity(0.5, speed_sd=2.0),
        ),
        Position(2),
        _pair(noise),
        (
            Random(3000.0),
            Biased(3000.0, stay=0.845),
            Stuck(_repeats(noise, 100.0), stay=0.8),
        ),
        keep=4,
    )


def _level(noise: float | tuple[float, ...]) -> Preset:
    sd = float(noise if isinstance(noise, int | float) else noise[0])
    return Preset(
        (Level(0.01 * sd**2), Level(25.0 * sd**2)),
        Position(1),
        (sd,),
        (Random(), Stuck()),
    )


PRESETS: dict[str, Callable[[float | tuple[float, ...]], Preset]] = {
    "terminal": _terminal,
    "en_route": _en_route,
    "lidar": _lidar,
    "rover": _rover,
    "level": _level,
}


def preset(name: str, noise: float | tuple[float, ...]) -> Preset:
    """Look up the settings of a domain.

    Args:
        name: `terminal` (aircraft near an airport), `en_route` (aircraft that cruise),
            `lidar` (range and bearing of a vehicle), `rover` (a slow robot with a
            satellite receiver), `level` (a scalar that walks and jumps; reports that
            are all shifted alike for a while look like a jump and are followed, unless
            `dynamics` are given that have none).
        noise: standard deviation of a nominal report; for `lidar` that of the distance
            and of the angle.

    Returns:
        The settings.

    Raises:
        ConfigurationError: there is no such preset.

    Example:
        >>> preset("terminal", 30.0).keep
        2
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, 1)
        raise ConfigurationError(
            "unknown preset",
            where="argument name",
            found=repr(name),
            expected=" or ".join(map(repr, PRESETS)),
            todo=f"Did you mean {near[0]!r}?" if near else "Choose one of these.",
        )
    for value in (noise,) if isinstance(noise, int | float) else noise:
        check_number("noise", value, strict=True)
    return PRESETS[name](noise)
