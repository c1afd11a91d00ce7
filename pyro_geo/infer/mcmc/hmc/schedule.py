"""When the stages of a warm-up end."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CYCLE", "Schedule"]

CYCLE = 10  # transitions between two metrics of the approach
_FEW_STEPS = 20  # in which a step size settles
_LEAST_STEPS = 40  # a shorter warm-up adapts the step size and the length alone
_FIRST_WINDOW, _GROWTH = 12.0, 1.3  # transitions; each window over the one before


class Schedule(NamedTuple):
    """Transitions at which the stages of a warm-up end.

    Attributes:
        approach: end of the approach.
        windows: ends of the windows.
        end: of it all.
    """

    approach: int
    windows: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, steps: int) -> Schedule:
        """Divide a number of transitions.

        Args:
            steps: transitions in all.

        Returns:
            The schedule.

        Example:
            >>> Schedule.of(300)
            Schedule(approach=70, windows=(82, 98, 118, 144, 179, 250), end=300)
        """
        if steps < _LEAST_STEPS:
            return cls(0, (), steps)
        approach = min(80, steps // 4 // CYCLE * CYCLE)
        last = steps - max(steps // 6, 10)
        windows, length = [], _FIRST_WINDOW
        stop = approach + length
        # a window is closed only if the next one fits too: the last takes the rest
        while stop + _GROWTH * length < last:
            windows.append(round(stop))
            length *= _GROWTH
            stop += length
        return cls(approach, (*windows, last), steps)

    @property
    def last_check(self) -> int | None:
        """In the middle of the last stage, where enough of it is left to go by."""
        if not self.windows:
            return None
        left = (self.end - self.windows[-1]) // 2
        return self.end - left if left >= _FEW_STEPS else None
