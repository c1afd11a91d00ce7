"""What a run cost: steps, gradients and seconds."""

from __future__ import annotations

from pyro_geo._process import Seconds
from pyro_geo.engine.schedule import Counts

__all__ = ["RunCosts"]


class RunCosts:
    """The costs of a run as attributes of its result.

    A subclass fills `timings` and `_counts`.

    Example:
        >>> costs = RunCosts()
        >>> costs.timings = {"start": Seconds(1.0, 2.0), "sampling": Seconds(3.0, 4.0)}
        >>> costs.cpu_seconds, costs.seconds
        (4.0, 6.0)
    """

    timings: dict[str, Seconds]
    """Processor and wall seconds by phase."""

    _counts: Counts

    @property
    def num_steps(self) -> int:
        """Batched steps of the run, as if all chains ran side by side."""
        return self._counts.num_steps

    @property
    def num_gradients(self) -> int:
        """Gradients of one chain, over all chains."""
        return self._counts.num_gradients

    @property
    def warmup_num_steps(self) -> int:
        """Batched steps of the warm-up."""
        return self._counts.warmup_num_steps

    @property
    def warmup_num_gradients(self) -> int:
        """Gradients of the warm-up."""
        return self._counts.warmup_num_gradients

    @property
    def seconds(self) -> float:
        """Wall seconds of the run."""
        return sum(phase.wall for phase in self.timings.values())

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of the run."""
        return sum(phase.cpu for phase in self.timings.values())
