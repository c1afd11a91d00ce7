"""Options of HMC and their checks, and how `"auto"` chooses a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.infer.mcmc.hmc.metric import MetricKind
from pyro_geo.infer.mcmc.hmc.trouble import FIRST_TARGET

__all__ = ["HMCOptions"]

_DENSE_DIM = 100  # above this a dense metric costs more than it brings
_DRAWS_PER_DIM = 10
_DRAWS_PER_BLOCK = 50  # and dimension of it: the last window keeps a quarter
_RANK = 32


@dataclass(frozen=True, kw_only=True)
class HMCOptions:
    """Options of :class:`~pyro_geo.infer.HMC`, where each is described."""

    step_size: float | None
    trajectory_length: float | None
    metric: Literal["auto"] | MetricKind
    target_accept_prob: float | None
    jitter: float
    max_leapfrog: int
    unroll: Literal["auto"] | int

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, strict=True)
        check_number("trajectory_length", self.trajectory_length, strict=True)
        kinds = ("auto", "diagonal", "dense", "low_rank", "blocks")
        check_choice("metric", self.metric, kinds)
        check_number("target_accept_prob", self.target_accept_prob, 0, 1, strict=True)
        check_number("jitter", self.jitter, 0, 1)
        check_count("max_leapfrog", self.max_leapfrog)
        unroll = self.unroll
        good = unroll == "auto" or (isinstance(unroll, int) and 1 <= unroll <= 16)
        check(good, "unroll", repr(unroll), "'auto' or an integer from 1 to 16")

    @property
    def first_target(self) -> float:
        """Acceptance rate that a warm-up begins with."""
        given = self.target_accept_prob
        return FIRST_TARGET if given is None else given

    def kind(self, dim: int, draws: int, width: int = 1) -> MetricKind:
        """Choose the metric for a dimension and the draws of warm-up at hand.

        Args:
            dim: dimension.
            draws: of all chains together.
            width: coordinates that an element of a plate has.

        Returns:
            The kind of metric.
        """
        if self.metric != "auto":
            return self.metric
        # a metric fitted to too few draws is worse than a plainer one
        if dim <= _DENSE_DIM and draws >= _DRAWS_PER_DIM * dim:
            return "dense"
        if width > 1 and draws >= _DRAWS_PER_BLOCK * width:
            return "blocks"
        return "low_rank" if draws >= _DRAWS_PER_DIM * _RANK else "diagonal"

    def rank(self, dim: int) -> int:
        """Rank of a low-rank metric."""
        return min(_RANK, dim)
