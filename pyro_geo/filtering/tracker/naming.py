"""Names of the axes of a track: components of the state, modes, motions, channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pyro_geo.filtering.tracker.runs import Runs

__all__ = ["Names", "names_of"]

_SPACE = ("x", "y", "z")
_ORDERS = ("", "v", "u")  # position, velocity, and what else moves it


class Names(NamedTuple):
    """Names of the axes.

    Attributes:
        state: components of the state.
        position: those that are the position, which lead.
        mode: modes of the sensor, the nominal one first.
        dynamics: motions.
        channel: numbers in a report.
    """

    state: tuple[str, ...]
    position: tuple[str, ...]
    mode: tuple[str, ...]
    dynamics: tuple[str, ...]
    channel: tuple[str, ...]


def names_of(runs: Runs) -> Names:
    """Name the axes of a tracker.

    Args:
        runs: its configuration.

    Returns:
        The names. A report that is the position itself has the names of that.
    """
    motion = runs.plan.dynamics[0]
    space = _axes(motion.axes)
    orders = [_ORDERS[k] if k < len(_ORDERS) else f"d{k}" for k in range(motion.orders)]
    state = tuple(f"{order}{axis}" for order in orders for axis in space)
    sensor = runs.plan.measurement
    places = sensor.identity and sensor.size == motion.axes
    channel = space if places else tuple(f"y{k}" for k in range(sensor.size))
    modes = ["nominal", *(type(fault).__name__.lower() for fault in runs.plan.faults)]
    motions = [
        f"{type(one).__name__}({one.values[0]:g})" if one.values else type(one).__name__
        for one in runs.plan.dynamics
    ]
    return Names(state, space, _distinct(modes), _distinct(motions), channel)


def _axes(count: int) -> tuple[str, ...]:
    if count == 1:
        return ("level",)
    return _SPACE[:count] if count <= 3 else tuple(f"x{k}" for k in range(count))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Number names that occur twice."""
    counts, seen = Counter(names), Counter[str]()
    out = []
    for name in names:
        seen[name] += 1
        out.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return tuple(out)
