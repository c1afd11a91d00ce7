"""Warm-up: all chains together find the bulk of the density and a metric for it.

There are three stages. In the *approach* each chain has a step size of its own. The
metric is fitted to the differences between successive points of all chains, as a
quasi-Newton method does, so that it can start many orders of magnitude off. In the
*windows* one step size, one trajectory length and the metric are fitted to the draws of
all chains; each window is longer than the last. At the *end* the metric is fixed, and
step size and length settle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.mcmc.hmc.adaptation import FIRST_LENGTH, Adaptation
from pyro_geo.infer.mcmc.hmc.arrival import (
    Points,
    ceiling,
    falling,
    outside,
    potential_spread,
    restarted,
    searching,
)
from pyro_geo.infer.mcmc.hmc.fisher import fit_metric
from pyro_geo.infer.mcmc.hmc.inertia import inertia_update
from pyro_geo.infer.mcmc.hmc.metric import diagonal_as
from pyro_geo.infer.mcmc.hmc.schedule import CYCLE
from pyro_geo.infer.mcmc.hmc.trajectory import LengthSearch, jumps, length_update
from pyro_geo.infer.mcmc.hmc.trouble import next_target, shorter, troubled
from pyro_geo.infer.step_size import (
    DualAveraging,
    averaged,
    coarse_update,
    restart,
    update,
)
from pyro_geo.infer.transition import LARGEST_ERROR, ChainState, Trajectory

__all__ = ["observe", "raise_target", "restart_lost_chains"]

_MOST_ROWS = 4_000  # that one metric is fitted to
# Part of the warm-up after which steps are judged. Before, the metric is too poor for
# any step; much later, too little is left to adapt to a higher target.
_FIRST_CHECK = 0.4
# Logarithm of the longest step: a sixth of a period of a normal density. Where the
# inertia lets every step be accepted, longer ones would make trajectories of one or two
# steps, whose lengths cannot be told apart.
_LONGEST_STEP = 0.0
_LONGEST = 1e3  # step of a chain that is searching, in steps of the others


def observe(
    state: Adaptation,
    before: ChainState,
    after: ChainState,
    trajectory: Trajectory,
    step_size: float,
    num_steps: int,
    uniform: Tensor,
) -> ChainState:
    """Learn from one transition; the state is changed in place.

    Args:
        state: of the warm-up.
        before: the chains before it.
        after: and after.
        trajectory: ends of the trajectories.
        step_size: usual one, that of :meth:`Adaptation.plan`.
        num_steps: leapfrog steps of the trajectories.
        uniform: numbers to choose neighbours with, `(chains,)`.

    Returns:
        The chains; those that searched in vain start again at other chains.
    """
    acceptance = (-trajectory.error).exp().clamp(max=1.0)
    if state.approaching:
        state.step_sizes = coarse_update(state.step_sizes, acceptance, state.target)
        _keep_secants(state, before, after)
        row = (after.q, after.grad, after.potential)
        state.trail = [*state.trail[1 - 3 * CYCLE :], row]
    else:
        _follow(state, before, after, trajectory, acceptance, step_size, num_steps)
    state.energies.append(after.potential)
    state.iteration += 1
    return _finish_stage(state, after, uniform)


def _follow(
    state: Adaptation,
    before: ChainState,
    after: ChainState,
    trajectory: Trajectory,
    acceptance: Tensor,
    step_size: float,
    num_steps: int,
) -> None:
    """Adapt to the chains that have arrived; the others have their own step sizes."""
    accepted = _accepted(state, acceptance)
    _follow_inertia(state, before, trajectory, acceptance, step_size)
    state.step = _bounded(update(state.step, accepted, state.target))
    time = num_steps * step_size
    _follow_length(state, before, trajectory, acceptance, time)
    _keep_draws(state, after)
    rejected = (after.q == before.q).all(-1)
    state.outcomes.append((rejected, trajectory.error > LARGEST_ERROR))
    if not state.complete:
        sizes = coarse_update(state.step_sizes, acceptance, state.target)
        # where the density is flat, each step is accepted and the sizes only grow
        sizes = sizes.clamp(max=_LONGEST * math.exp(state.step.log_step))
        state.step_sizes = torch.where(state.searching, sizes, state.step_sizes)


def _accepted(state: Adaptation, acceptance: Tensor) -> float:
    """Mean acceptance rate; with several modes, that of those which accept least."""
    if state.groups is None:
        return float(state.arrived(acceptance).mean())
    state.groups, accepted = state.groups.accepted(acceptance, ~state.searching)
    return accepted


def _bounded(step: DualAveraging) -> DualAveraging:
    """Keep the step short enough for lengths between its multiples to matter."""
    return step._replace(
        log_step=min(step.log_step, _LONGEST_STEP), mean=min(step.mean, _LONGEST_STEP)
    )


def _finish_stage(state: Adaptation, chains: ChainState, uniform: Tensor) -> ChainState:
    """Refit the metric where a cycle or a window ends."""
    schedule, iteration = state.schedule, state.iteration
    if iteration <= schedule.approach:
        if iteration % CYCLE:
            return chains
        _refit_approach(state)
        if iteration == schedule.approach:
            chains = _begin_windows(state, chains, uniform)
        state.energies = []
    elif iteration in schedule.windows:
        chains = _finish_window(state, chains, uniform)
    elif iteration == schedule.last_check:
        raise_target(state)
    elif iteration == schedule.end and not state.complete:
        far = outside(state.energies, chains.q.shape[1])
        state.set_searching(state.searching & far)
    return chains


def _begin_windows(
    state: Adaptation, chains: ChainState, uniform: Tensor
) -> ChainState:
    far = outside(state.energies, chains.q.shape[1])
    state.set_searching(searching(state.trail, far))
    found = state.searching
    chains = restart_lost_chains(state, state.trail, chains, uniform, found)
    # from here on all chains that have arrived share one step size
    sizes = state.arrived(state.step_sizes)
    middle = float(sizes.double().log().median().exp())
    state.step = restart(state.fixed_step or middle)
    state.rows, state.trail = [], []
    state.centre = state.arrived(chains.q).mean(0)
    return chains


def _finish_window(
    state: Adaptation, chains: ChainState, uniform: Tensor
) -> ChainState:
    windows = state.schedule.windows
    # keep the later half: the first draws may still be on their way to the bulk
    state.rows = state.rows[len(state.rows) // 2 :]
    far = outside(state.energies, chains.q.shape[1])
    before = state.searching
    state.set_searching(searching(state.rows, far))
    _refit_window(state, far & ~state.searching)
    early = state.iteration != windows[-1]
    state.step = restart(averaged(state.step))
    if state.iteration >= _FIRST_CHECK * state.schedule.end:
        raise_target(state)
    state.outcomes = []
    if early:
        rows, last = state.rows, state.iteration == windows[-2]
        # one that has not moved with the steps of the others gets its own first
        searched = state.searching & before
        chains = restart_lost_chains(state, rows, chains, uniform, searched, last=last)
        # the length found so far is in units of the old metric
        middle = 0.5 * (state.length.mean + math.log(FIRST_LENGTH))
        state.length = LengthSearch(middle, middle)
    state.energies = []
    return chains


def restart_lost_chains(
    state: Adaptation,
    points: list[Points],
    chains: ChainState,
    uniform: Tensor,
    searched: Tensor,
    *,
    last: bool = False,
) -> ChainState:
    """Start chains again at others that have searched and found nothing.

    A chain that has arrived is never moved, nor one that the user placed.

    Args:
        state: of the warm-up; takes down which chains are moved.
        points: where the chains were in this stage.
        chains: where they are.
        uniform: numbers to choose the other chains with, `(chains,)`.
        searched: which ones may be moved, `(chains,)`.
        last: whether chains that are still coming nearer are moved too.

    Returns:
        The chains.
    """
    if state.placed or state.complete:
        return chains
    lost = searched
    if not last:  # these are on their way
        lost = lost & ~falling([row[2] for row in points], chains.q.shape[1])
    if not bool(lost.any()):
        return chains
    arrived = ~state.searching
    state.set_searching(state.searching & ~lost)
    state.restarted = state.restarted | lost
    return restarted(chains, lost, arrived, uniform)


def raise_target(state: Adaptation) -> None:
    """Aim at a higher acceptance rate where transitions of this stage were in trouble.

    Args:
        state: of the warm-up, changed in place.
    """
    higher = next_target(state.target)
    # at first the step size has yet to settle
    outcomes = state.outcomes[CYCLE:]
    if not state.may_raise or higher is None or not outcomes:
        return
    rejected, diverging = (
        torch.stack(column)[:, ~state.searching]
        for column in zip(*outcomes, strict=True)
    )
    if not troubled(rejected, diverging):
        return
    state.step = restart(shorter(averaged(state.step), state.target, higher))
    # with shorter steps a longer trajectory pays: what was measured no longer holds
    state.length = LengthSearch(state.length.mean, state.length.mean)
    state.target = higher
    state.outcomes = []


def _keep_secants(state: Adaptation, before: ChainState, after: ChainState) -> None:
    """Keep differences between successive points, scaled to a common size.

    Each pair of differences, of positions and of gradients, measures the curvature
    along it, however long it is. Without the common size the chains that are furthest
    out would dominate the fit.
    """
    step, slope = after.q - before.q, after.grad - before.grad
    accepted = (step != 0).any(-1)
    # divided by the root of |step| |slope|, both in units of the metric
    size = state.metric.root_solve(step).norm(dim=-1) * state.metric.norm(slope)
    weight = torch.where(accepted, size.clamp(min=1e-30).rsqrt(), 0.0)[:, None]
    step, slope = step * weight, slope * weight
    state.rows.append((step[accepted], slope[accepted], after.potential[accepted]))


def _keep_draws(state: Adaptation, chains: ChainState) -> None:
    count = state.iteration - state.schedule.approach + 1
    # a running mean: with few chains their mean at one time is too noisy a centre
    share = max(1 / count, 0.02)
    middle = state.arrived(chains.q).mean(0)
    state.centre = state.centre + share * (middle - state.centre)
    if state.groups is not None:
        state.groups = state.groups.follow(chains.q, share)
    if state.iteration % state.stride == 0:
        state.rows.append((chains.q, chains.grad, chains.potential))


def _follow_length(
    state: Adaptation,
    chains: ChainState,
    trajectory: Trajectory,
    acceptance: Tensor,
    time: float,
) -> None:
    q, end = state.arrived(chains.q), state.arrived(trajectory.q)
    # the mean over few chains is noisy: the running mean takes its place
    few = len(q) < 8
    centre = state.centre if few else q.mean(0)
    end_centre = state.centre if few else _finite_mean(end)
    if (groups := state.groups) is not None:
        centre = end_centre = groups.centres[state.arrived(groups.member)]
    measured = jumps(
        state.metric.root_solve(q - centre),
        state.metric.root_solve(end - end_centre),
        state.metric.root_solve(state.arrived(trajectory.velocity)),
        state.arrived(acceptance),
        time,
    )
    state.length = length_update(state.length, measured, len(q))


def _follow_inertia(
    state: Adaptation,
    chains: ChainState,
    trajectory: Trajectory,
    acceptance: Tensor,
    step_size: float,
) -> None:
    potential = trajectory.potential - chains.potential
    kinetic = (trajectory.error - potential) / state.inertia_at(step_size)
    state.inertia = inertia_update(
        state.inertia,
        state.arrived(potential),
        state.arrived(kinetic),
        state.arrived(acceptance),
        step_size,
    )


def _finite_mean(q: Tensor) -> Tensor:
    finite = q.isfinite().all(-1, keepdim=True)
    return torch.where(finite, q, 0.0).sum(0) / finite.sum().clamp(min=1)


def _refit_approach(state: Adaptation) -> None:
    """Fit the metric to the secants of the last three cycles."""
    rows = [row for row in state.rows if len(row[0])]
    # older ones are from further out
    state.rows = state.rows[-3 * CYCLE :]
    if rows:
        q, grad, _ = (torch.cat(column) for column in zip(*rows, strict=True))
        q, grad = _thinned(q, grad)
        # both signs, so that the fit's centring subtracts nothing
        both = torch.cat([q, -q]), torch.cat([grad, -grad])
        _refit(state, *both, len(q))


def _refit_window(state: Adaptation, resident: Tensor) -> None:
    """Fit the metric to draws of the chains that have arrived.

    Args:
        state: of the warm-up.
        resident: chains in regions of a lower density that have a mass to speak of,
            `(chains,)`; all of their draws count.
    """
    if not state.rows:
        return
    q, grad, energy = (torch.cat(column) for column in zip(*state.rows, strict=True))
    count, dim = len(state.rows), q.shape[1]
    # of other chains, points far above the rest are from their way, and would widen it
    near = energy <= ceiling(energy, potential_spread(state.energies, dim))
    near = (near | resident.repeat(count)) & ~state.searching.repeat(count)
    q, grad = q[near], grad[near]
    if (groups := state.groups) is not None:
        index = groups.member.repeat(count)[near]
        q, grad = groups.within(q, index), groups.within(grad, index)
    q, grad = _thinned(q, grad)
    _refit(state, q, grad, len(q))


def _thinned(q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    stride = -(-len(q) // max(_MOST_ROWS, 20 * q.shape[1]))
    return q[::stride], grad[::stride]


def _refit(state: Adaptation, q: Tensor, grad: Tensor, count: int) -> None:
    """Fit the metric to rows; keep the old one where they do not suffice."""
    # a dense metric has dim**2 numbers, too many for fewer points than this
    enough = count >= 3 * q.shape[1]
    sparse = state.kind in ("low_rank", "blocks")
    kind = state.kind if enough or sparse else "diagonal"
    metric = fit_metric(kind, q, grad, state.rank, state.members)
    if metric is None:
        return
    if isinstance(metric, Diagonal):
        metric = diagonal_as(state.kind, metric.scale, state.rank, state.members)
    state.metric = metric
