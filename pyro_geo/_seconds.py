"""Processor and wall time, which belong together."""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Self

__all__ = ["Seconds"]


class Seconds(NamedTuple):
    """Seconds of the processor, processes started from here included, and of the wall.

    Attributes:
        cpu: processor seconds.
        wall: wall seconds.

    Example:
        >>> Seconds(1.0, 2.0) + Seconds(0.5, 0.5)
        Seconds(cpu=1.5, wall=2.5)
    """

    cpu: float = 0.0
    wall: float = 0.0

    @classmethod
    def now(cls) -> Self:
        """Read both clocks; only differences mean anything."""
        times = os.times()  # a compiler runs as a child
        children = times.children_user + times.children_system
        return cls(time.process_time() + children, time.perf_counter())

    def __add__(self, other: Seconds) -> Seconds:  # type: ignore[override]
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.cpu - other.cpu, self.wall - other.wall)
