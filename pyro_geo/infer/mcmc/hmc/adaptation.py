"""What a warm-up has learned: its state, and the tuning that it ends with."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.hmc.arrival import Points
from pyro_geo.infer.mcmc.hmc.groups import ModeGroups
from pyro_geo.infer.mcmc.hmc.inertia import InertiaSearch, inertia_of
from pyro_geo.infer.mcmc.hmc.metric import Metric, MetricKind, diagonal_as
from pyro_geo.infer.mcmc.hmc.schedule import Schedule
from pyro_geo.infer.mcmc.hmc.trajectory import LengthSearch
from pyro_geo.infer.step_size import DualAveraging, averaged, restart
from pyro_geo.infer.transition import ChainState

__all__ = ["FIRST_LENGTH", "Adaptation", "Tuning", "scattered", "start_adaptation"]

FIRST_LENGTH = 1.5  # whitened; a quarter of a period of a normal density is 1.57
_APPROACH_LENGTH = 1.0  # whitened
_MOST_NUMBERS = 20_000_000  # kept for the metric


class Tuning(NamedTuple):
    """What warm-up has found, frozen while draws are made.

    Attributes:
        step_size: largest leapfrog step, `()`.
        trajectory_length: mean length, `()`.
        metric: covariance of velocities.
        centre: mean of the draws of warm-up, `(dim,)`.
        inertia: factor of the kinetic energy, `()`.
    """

    step_size: Tensor
    trajectory_length: Tensor
    metric: Metric
    centre: Tensor
    inertia: Tensor


@dataclass
class Adaptation:
    """State of a warm-up under way.

    Attributes:
        schedule: when stages end.
        kind: of metric.
        rank: of a low-rank metric.
        target: acceptance rate wanted.
        may_raise: whether it may be raised, which is so unless the user gave it.
        placed: whether the user said where the chains start; such chains are not moved.
        metric: the one in use.
        step_sizes: of each chain that is searching, `(chains,)`.
        searching: chains that have not arrived where the mass is, `(chains,)`. In the
            approach all are searching, whatever this says.
        restarted: chains that were restarted at others, `(chains,)`.
        complete: whether all chains have arrived.
        step: search for the common step size.
        length: search for the trajectory length.
        centre: running mean of positions, `(dim,)`.
        inertia: search for the inertia.
        members: coordinates of each block of a metric of blocks, `(blocks, width)`.
        iteration: transitions so far.
        fixed_step: step size given by the user.
        fixed_length: trajectory length given by the user.
        stride: every how many transitions rows are kept.
        rows: points, gradients and potentials that the metric is fitted to.
        trail: where the chains were in the approach.
        energies: potentials of the stage, `(chains,)` each.
        outcomes: of the transitions of a stage: which were rejected, which diverged.
        groups: chains by the mode that they started in, where there are several.
    """

    schedule: Schedule
    kind: MetricKind
    rank: int
    target: float
    may_raise: bool
    placed: bool
    metric: Metric
    step_sizes: Tensor
    searching: Tensor
    restarted: Tensor
    step: DualAveraging
    length: LengthSearch
    centre: Tensor
    inertia: InertiaSearch = InertiaSearch()
    members: Tensor | None = None
    complete: bool = True
    iteration: int = 0
    fixed_step: float | None = None
    fixed_length: float | None = None
    stride: int = 1
    rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    trail: list[Points] = field(default_factory=list)
    energies: list[Tensor] = field(default_factory=list)
    outcomes: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    groups: ModeGroups | None = None

    @property
    def approaching(self) -> bool:
        """Whether each chain still has its own step size."""
        return self.iteration < self.schedule.approach

    def most_leapfrog(self, most: int) -> int:
        """Leapfrog steps that the next transition may have."""
        # while the metric is still poor, a long trajectory costs more than it brings
        if self.approaching:
            return min(most, 10)
        early = any(self.iteration < stop for stop in self.schedule.windows)
        return min(most, 64) if early else most

    @property
    def finished(self) -> bool:
        """Whether the schedule has come to its end."""
        return self.iteration >= self.schedule.end

    def plan(self) -> tuple[float, float, Tensor]:
        """Say what the next transition is to be.

        Returns:
            The trajectory length, the usual step size and that of each chain: one that
            is still searching has its own.
        """
        if self.approaching:
            length = self.fixed_length or _APPROACH_LENGTH
            return length, float(self.step_sizes.median()), self.step_sizes
        step = self.fixed_step or math.exp(self.step.log_step)
        length = self.fixed_length or math.exp(self.length.log_length)
        sizes = torch.full_like(self.step_sizes, step)
        shared = float(sizes[0])
        if not self.complete:
            sizes = torch.where(self.searching, self.step_sizes, sizes)
        return length, shared, sizes

    def inertia_at(self, step_size: float) -> float:
        """Inertia that goes with a step size; 1 where the chains are not together."""
        if self.approaching:
            return 1.0
        return inertia_of(self.inertia.frequency, step_size)

    def set_searching(self, searching: Tensor) -> None:
        """Take down which chains have not arrived, `(chains,)`."""
        self.searching, self.complete = searching, not bool(searching.any())

    def arrived(self, values: Tensor) -> Tensor:
        """Rows of the chains that have arrived."""
        return values if self.complete else values[~self.searching]

    def tuning(self) -> Tuning:
        """Step size, length and metric as they are now, averaged where they vary."""
        like = self.centre
        step = self.fixed_step or averaged(self.step)
        length = self.fixed_length or math.exp(self.length.mean)
        return Tuning(
            like.new_tensor(step),
            like.new_tensor(length),
            self.metric,
            like,
            like.new_tensor(self.inertia_at(step)),
        )

    def copy(self) -> Adaptation:
        """Copy, so that a block of warm-up can be run again."""
        new = copy.copy(self)
        new.rows, new.trail = list(self.rows), list(self.trail)
        new.energies, new.outcomes = list(self.energies), list(self.outcomes)
        return new


def start_adaptation(
    chains: ChainState,
    steps: int,
    kind: MetricKind,
    rank: int,
    target: float,
    fixed_step: float | None,
    fixed_length: float | None,
    *,
    may_raise: bool = False,
    placed: bool = False,
    members: Tensor | None = None,
    groups: ModeGroups | None = None,
) -> Adaptation:
    """Begin with scales taken from the slopes where the chains start.

    Args:
        chains: where they start.
        steps: transitions of warm-up.
        kind: of metric.
        rank: of a low-rank metric.
        target: acceptance rate wanted.
        fixed_step: step size if it is not to be adapted.
        fixed_length: trajectory length if it is not to be adapted.
        may_raise: whether warm-up may raise the target.
        placed: whether the user said where the chains start.
        members: coordinates of each block, for a metric of blocks.
        groups: chains by the mode that they start in.

    Returns:
        The state of a warm-up before its first transition.
    """
    # A start is about one unit from the mode, where the slope is 1 / scale**2. So the
    # scale is the slope to the power -1/2, in the geometric mean over chains.
    slopes = chains.grad.double().abs().clamp(1e-10, 1e10)
    scale = slopes.log().mean(0).mul(-0.5).exp().to(chains.q)
    if steps < 40:  # too few to correct a scale that is wrong
        scale = torch.ones_like(scale)
    log_length = math.log(fixed_length or FIRST_LENGTH)
    step = fixed_step or 0.1
    return Adaptation(
        Schedule.of(steps),
        kind,
        rank,
        target,
        may_raise and fixed_step is None,
        placed,
        diagonal_as(kind, scale, rank, members),
        torch.full_like(chains.potential, step),
        torch.zeros_like(chains.potential, dtype=torch.bool),
        torch.zeros_like(chains.potential, dtype=torch.bool),
        restart(step),
        LengthSearch(log_length, log_length),
        chains.q.mean(0),
        members=members,
        fixed_step=fixed_step,
        fixed_length=fixed_length,
        stride=-(-chains.q.numel() * steps // _MOST_NUMBERS),
        groups=groups,
    )


def scattered(tuning: Tuning, noise: Tensor) -> Tensor:
    """Starts for later chains, twice as wide as the density, `(chains, dim)`."""
    return tuning.centre + 2 * tuning.metric.sample(noise)
