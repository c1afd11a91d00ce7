"""Options of HMC, checked when they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.mcmc.hmc.metric import MetricKind

__all__ = ["HMCOptions"]

_DENSE_DIM = 100  # above this a dense metric costs more than it brings
_DRAWS_PER_DIM = 10
_RANK = 32


@dataclass(frozen=True)
class HMCOptions:
    """Options of :class:`~pyro_geo.infer.HMC`, where each is described."""

    step_size: float | None = None
    trajectory_length: float | None = None
    metric: Literal["auto"] | MetricKind = "auto"
    target_accept_prob: float = 0.8
    jitter: float = 0.4
    max_leapfrog: int = 1023
    unroll: Literal["auto"] | int = "auto"

    def __post_init__(self) -> None:
        for name in ("step_size", "trajectory_length"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                _refuse(name, value, "a positive number or None")
        if self.metric not in ("auto", "diagonal", "dense", "low_rank"):
            _refuse("metric", self.metric, "'auto', 'diagonal', 'dense' or 'low_rank'")
        if not 0 < self.target_accept_prob < 1:
            _refuse("target_accept_prob", self.target_accept_prob, "between 0 and 1")
        if not 0 <= self.jitter < 1:
            _refuse("jitter", self.jitter, "at least 0 and below 1")
        if not isinstance(self.max_leapfrog, int) or self.max_leapfrog < 1:
            _refuse("max_leapfrog", self.max_leapfrog, "a positive integer")
        if self.unroll != "auto" and (
            not isinstance(self.unroll, int) or not 1 <= self.unroll <= 16
        ):
            _refuse("unroll", self.unroll, "'auto' or an integer from 1 to 16")

    def kind(self, dim: int, draws: int) -> MetricKind:
        """Choose the metric for a dimension and the draws of warm-up at hand.

        Args:
            dim: dimension.
            draws: of all chains together.

        Returns:
            The kind of metric.
        """
        if self.metric != "auto":
            return self.metric
        if dim <= _DENSE_DIM and draws >= _DRAWS_PER_DIM * dim:
            return "dense"
        return "low_rank" if draws >= _DRAWS_PER_DIM * _RANK else "diagonal"

    def rank(self, dim: int) -> int:
        """Rank of a low-rank metric."""
        return min(_RANK, dim)


def _refuse(name: str, value: object, expected: str) -> None:
    raise ConfigurationError(
        "option out of range",
        where=f"argument {name}",
        found=repr(value),
        expected=expected,
        todo="pass such a value or leave it out",
    )
