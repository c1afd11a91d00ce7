"""Warm-up: all chains together find the bulk of the density and a metric for it.

There are three stages. In the *approach* each chain has a step size of its own. The
metric is fitted to the differences between successive points of all chains, as a
quasi-Newton method does, so that it can start many orders of magnitude off. In the
*windows* one step size, one trajectory length and the metric are fitted to the draws of
all chains; each window is longer than the last. At the *end* the metric is fixed, and
step size and length settle.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.mcmc.hmc.fisher import fit_metric
from pyro_geo.infer.mcmc.hmc.metric import Metric, MetricKind, diagonal_as
from pyro_geo.infer.mcmc.hmc.trajectory import (
    LengthSearch,
    jumps,
    length_update,
)
from pyro_geo.infer.step_size import (
    DualAveraging,
    averaged,
    coarse_update,
    restart,
    update,
)
from pyro_geo.infer.transition import ChainState, Trajectory

__all__ = ["Adaptation", "Schedule", "Tuning", "observe", "start_adaptation"]

_CYCLE = 10  # transitions between two metrics of the approach
_APPROACH_LENGTH = 1.0  # whitened; a quarter of a period is 1.57
_FIRST_LENGTH = 1.5
_MOST_ROWS = 4_000
_MOST_NUMBERS = 20_000_000  # kept for the metric
_HOPELESS = 10.0  # nats above the usual spread at which a chain is restarted


class Tuning(NamedTuple):
    """What warm-up has found, frozen while draws are made.

    Attributes:
        step_size: largest leapfrog step, `()`.
        trajectory_length: mean length, `()`.
        metric: covariance of velocities.
        centre: mean of the draws of warm-up, `(dim,)`.
    """

    step_size: Tensor
    trajectory_length: Tensor
    metric: Metric
    centre: Tensor


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
        if steps < 40:
            return cls(0, (), steps)
        approach = min(80, steps // 4 // _CYCLE * _CYCLE)
        last = steps - max(steps // 6, 10)
        windows, length = [], 12.0
        stop = approach + length
        while stop + 1.3 * length < last:
            windows.append(round(stop))
            length *= 1.3
            stop += length
        return cls(approach, (*windows, last), steps)


@dataclass
class Adaptation:
    """State of a warm-up under way.

    Attributes:
        schedule: when stages end.
        kind: of metric.
        rank: of a low-rank metric.
        target: acceptance rate wanted.
        metric: the one in use.
        step_sizes: of each chain in the approach, `(chains,)`.
        step: search for the common step size.
        length: search for the trajectory length.
        centre: running mean of positions, `(dim,)`.
        iteration: transitions so far.
        restarted: chains that were put beside others.
        fixed_step: step size given by the user.
        fixed_length: trajectory length given by the user.
        stride: every how many transitions rows are kept.
        rows: points, gradients and potentials that the metric is fitted to.
        energies: potentials of the stage, `(chains,)` each.
    """

    schedule: Schedule
    kind: MetricKind
    rank: int
    target: float
    metric: Metric
    step_sizes: Tensor
    step: DualAveraging
    length: LengthSearch
    centre: Tensor
    iteration: int = 0
    restarted: int = 0
    fixed_step: float | None = None
    fixed_length: float | None = None
    stride: int = 1
    rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    energies: list[Tensor] = field(default_factory=list)

    @property
    def approaching(self) -> bool:
        """Whether each chain still has its own step size."""
        return self.iteration < self.schedule.approach

    def most_leapfrog(self, most: int) -> int:
        """Leapfrog steps that the next transition may have."""
        if self.approaching:
            return min(most, 10)
        early = any(self.iteration < stop for stop in self.schedule.windows)
        return min(most, 64) if early else most

    @property
    def finished(self) -> bool:
        """Whether the schedule has come to its end."""
        return self.iteration >= self.schedule.end

    def plan(self) -> tuple[float, Tensor]:
        """Trajectory length and step sizes of the next transition."""
        if self.approaching:
            return self.fixed_length or _APPROACH_LENGTH, self.step_sizes
        step = self.fixed_step or math.exp(self.step.log_step)
        length = self.fixed_length or math.exp(self.length.log_length)
        return length, torch.full_like(self.step_sizes, step)

    def tuning(self) -> Tuning:
        """What is found by now."""
        like = self.centre
        step = self.fixed_step or averaged(self.step)
        length = self.fixed_length or math.exp(self.length.mean)
        return Tuning(like.new_tensor(step), like.new_tensor(length), self.metric, like)

    def potential_spread(self, dim: int) -> Tensor:
        """Standard deviation of the potential along recent parts of the chains."""
        energies = torch.stack(self.energies[-_CYCLE:]).double()
        # that of a normal density, plus dim / 10: a wide mode must not be given up
        # because its peak is lower than that of a narrow one
        usual = math.sqrt(dim / 2) + dim / 10
        return energies.std(0).nan_to_num(0.0).quantile(0.75).clamp(min=usual)

    def copy(self) -> Adaptation:
        """Copy, so that a block of warm-up can be run again."""
        new = copy.copy(self)
        new.rows, new.energies = list(self.rows), list(self.energies)
        return new


def start_adaptation(
    chains: ChainState,
    steps: int,
    kind: MetricKind,
    rank: int,
    target: float,
    fixed_step: float | None,
    fixed_length: float | None,
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

    Returns:
        The state of a warm-up before its first transition.
    """
    slopes = chains.grad.double().abs().clamp(1e-10, 1e10)
    scale = slopes.log().mean(0).mul(-0.5).exp().to(chains.q)
    if steps < 40:
        scale = torch.ones_like(scale)
    log_length = math.log(fixed_length or _FIRST_LENGTH)
    step = fixed_step or 0.1
    return Adaptation(
        Schedule.of(steps),
        kind,
        rank,
        target,
        diagonal_as(kind, scale, rank),
        torch.full_like(chains.potential, step),
        restart(step),
        LengthSearch(log_length, log_length),
        chains.q.mean(0),
        fixed_step=fixed_step,
        fixed_length=fixed_length,
        stride=-(-chains.q.numel() * steps // _MOST_NUMBERS),
    )


def observe(
    state: Adaptation,
    before: ChainState,
    after: ChainState,
    trajectory: Trajectory,
    time: float,
    uniform: Tensor,
) -> ChainState:
    """Learn from one transition; the state is changed in place.

    Args:
        state: of the warm-up.
        before: the chains before it.
        after: and after.
        trajectory: ends of the trajectories.
        time: their length.
        uniform: numbers to choose neighbours with, `(chains,)`.

    Returns:
        The chains; those that were lost stand beside others now.
    """
    acceptance = (-trajectory.error).exp().clamp(max=1.0)
    if state.approaching:
        state.step_sizes = coarse_update(state.step_sizes, acceptance, state.target)
        _keep_secants(state, before, after)
    else:
        state.step = update(state.step, float(acceptance.mean()), state.target)
        _follow_length(state, before, trajectory, acceptance, time)
        _keep_draws(state, after)
    state.energies.append(after.potential)
    state.iteration += 1
    return _finish_stage(state, after, uniform)


def _finish_stage(state: Adaptation, chains: ChainState, uniform: Tensor) -> ChainState:
    """Refit the metric where a cycle or a window ends."""
    schedule, now = state.schedule, state.iteration
    if now <= schedule.approach:
        if now % _CYCLE:
            return chains
        _refit(state)
        state.rows = state.rows[-3 * _CYCLE :]
        if now == schedule.approach:
            chains = _rescue(state, chains, uniform)
            middle = float(state.step_sizes.double().log().median().exp())
            state.step = restart(state.fixed_step or middle)
            state.rows = []
            state.centre = chains.q.mean(0)
        state.energies = []
    elif now in schedule.windows:
        # keep the later half: the first draws may still be on their way to the bulk
        state.rows = state.rows[len(state.rows) // 2 :]
        _refit(state)
        early = now != schedule.windows[-1]
        if early:
            chains = _rescue(state, chains, uniform)
        state.energies = []
        state.step = restart(averaged(state.step))
        if early:  # the length found so far is in units of the old metric
            middle = 0.5 * (state.length.mean + math.log(_FIRST_LENGTH))
            state.length = LengthSearch(middle, middle)
    return chains


def _keep_secants(state: Adaptation, before: ChainState, after: ChainState) -> None:
    """Keep differences between successive points, scaled to a common size.

    Each pair of differences, of positions and of gradients, measures the curvature
    along it, however long it is. Without the common size the chains that are furthest
    out would dominate the fit.
    """
    step, slope = after.q - before.q, after.grad - before.grad
    accepted = (step != 0).any(-1)
    size = state.metric.root_solve(step).norm(dim=-1) * state.metric.norm(slope)
    weight = torch.where(accepted, size.clamp(min=1e-30).rsqrt(), 0.0)[:, None]
    step, slope = step * weight, slope * weight
    state.rows.append((step[accepted], slope[accepted], after.potential[accepted]))


def _keep_draws(state: Adaptation, chains: ChainState) -> None:
    count = state.iteration - state.schedule.approach + 1
    # a running mean: with few chains their mean at one time is too noisy a centre
    share = max(1 / count, 0.02)
    state.centre = state.centre + share * (chains.q.mean(0) - state.centre)
    if state.iteration % state.stride == 0:
        state.rows.append((chains.q, chains.grad, chains.potential))


def _follow_length(
    state: Adaptation,
    chains: ChainState,
    trajectory: Trajectory,
    acceptance: Tensor,
    time: float,
) -> None:
    few = len(chains.q) < 8
    centre = state.centre if few else chains.q.mean(0)
    end_centre = state.centre if few else _finite_mean(trajectory.q)
    found = jumps(
        state.metric.root_solve(chains.q - centre),
        state.metric.root_solve(trajectory.q - end_centre),
        state.metric.root_solve(trajectory.velocity),
        acceptance,
        time,
    )
    state.length = length_update(state.length, found, len(chains.q))


def _finite_mean(q: Tensor) -> Tensor:
    finite = q.isfinite().all(-1, keepdim=True)
    return torch.where(finite, q, 0.0).sum(0) / finite.sum().clamp(min=1)


def _refit(state: Adaptation) -> None:
    """Fit the metric to the rows kept; keep the old one where they do not suffice."""
    rows = [row for row in state.rows if len(row[0])]
    if not rows:
        return
    q, grad, energy = (torch.cat(column) for column in zip(*rows, strict=True))
    secants = state.iteration <= state.schedule.approach
    if not secants:
        near = energy <= _ceiling(energy, state.potential_spread(q.shape[1]))
        q, grad = q[near], grad[near]
    stride = -(-len(q) // max(_MOST_ROWS, 20 * q.shape[1]))
    q, grad = q[::stride], grad[::stride]
    enough = len(q) >= 3 * q.shape[1]
    if secants:  # both signs, so that the fit's centring subtracts nothing
        q, grad = torch.cat([q, -q]), torch.cat([grad, -grad])
    kind = state.kind if enough or state.kind == "low_rank" else "diagonal"
    metric = fit_metric(kind, q, grad, state.rank)
    if metric is None:
        return
    if isinstance(metric, Diagonal):
        metric = diagonal_as(state.kind, metric.scale, state.rank)
    state.metric = metric


def _rescue(state: Adaptation, chains: ChainState, uniform: Tensor) -> ChainState:
    """Restart chains of hopelessly low density, or that never moved, beside others."""
    if len(state.energies) < 2 or len(chains.q) < 4:
        return chains
    energies = torch.stack(state.energies[-_CYCLE:]).double()
    if not bool(energies.isfinite().any()):
        return chains
    best = energies.min(0).values
    hopeless = best > _ceiling(energies, state.potential_spread(chains.q.shape[1]))
    stuck = (energies == energies[0]).all(0) & (len(energies) >= _CYCLE)
    lost = hopeless | stuck | ~best.isfinite()
    healthy = (~lost).nonzero().flatten()
    if not bool(lost.any()) or 8 * len(healthy) < len(lost):
        return chains
    pick = healthy[(uniform * len(healthy)).long().clamp(max=len(healthy) - 1)]
    state.restarted += int(lost.sum())
    return ChainState(
        torch.where(lost[:, None], chains.q[pick], chains.q),
        torch.where(lost, chains.potential[pick], chains.potential),
        torch.where(lost[:, None], chains.grad[pick], chains.grad),
    )


def _ceiling(energies: Tensor, spread: Tensor) -> Tensor:
    """Potential above which a point is no part of the density's bulk.

    It is measured from the lowest potentials, so that it holds while most chains are
    still on their way, or sit in a mode of negligible mass.

    Args:
        energies: potentials of all chains.
        spread: standard deviation of the potential along a chain.

    Returns:
        The potential, `()`.
    """
    best = energies[energies.isfinite()].quantile(0.05)
    return best + _HOPELESS + 5 * spread


def scattered(tuning: Tuning, noise: Tensor) -> Tensor:
    """Starts for later chains, twice as wide as the density, `(chains, dim)`."""
    return tuning.centre + 2 * tuning.metric.sample(noise)
