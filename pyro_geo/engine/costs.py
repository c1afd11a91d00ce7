"""What a run of chains cost: steps, gradients and seconds."""

from __future__ import annotations

from pyro_geo.engine.attributes import RunTimes
from pyro_geo.engine.schedule import Counts

__all__ = ["RunCosts"]


class RunCosts(RunTimes):
    """The costs of a run as attributes of its result.

    A subclass fills `timings` and `_counts`.

    Example:
        >>> costs = RunCosts()
        >>> costs._counts = Counts(num_steps=10, num_gradients=40)
        >>> costs.num_gradients
        40
    """

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
