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
from pyro_geo.infer.mcmc.hmc.fisher import fit_metric
from pyro_geo.infer.mcmc.hmc.metric import diagonal_as
from pyro_geo.infer.mcmc.hmc.schedule import CYCLE
from pyro_geo.infer.mcmc.hmc.trajectory import LengthSearch, jumps, length_update
from pyro_geo.infer.step_size import averaged, coarse_update, restart, update
from pyro_geo.infer.transition import ChainState, Trajectory

__all__ = ["observe", "restart_lost_chains"]

_MOST_ROWS = 4_000  # that one metric is fitted to
_RESTART_GAP = 10.0  # nats above the usual spread at which a chain is restarted


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
        The chains; those that were lost start again at other chains.
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
    schedule, iteration = state.schedule, state.iteration
    if iteration <= schedule.approach:
        if iteration % CYCLE:
            return chains
        _refit(state)
        # secants of three cycles: older ones are from further out
        state.rows = state.rows[-3 * CYCLE :]
        if iteration == schedule.approach:
            chains = restart_lost_chains(state, chains, uniform)
            # from here on all chains share one step size
            middle = float(state.step_sizes.double().log().median().exp())
            state.step = restart(state.fixed_step or middle)
            state.rows = []
            state.centre = chains.q.mean(0)
        state.energies = []
    elif iteration in schedule.windows:
        # keep the later half: the first draws may still be on their way to the bulk
        state.rows = state.rows[len(state.rows) // 2 :]
        _refit(state)
        early = iteration != schedule.windows[-1]
        if early:
            chains = restart_lost_chains(state, chains, uniform)
        state.energies = []
        state.step = restart(averaged(state.step))
        if early:  # the length found so far is in units of the old metric
            middle = 0.5 * (state.length.mean + math.log(FIRST_LENGTH))
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
    # divided by the root of |step| |slope|, both in units of the metric
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
    # the mean over few chains is noisy: the running mean takes its place
    few = len(chains.q) < 8
    centre = state.centre if few else chains.q.mean(0)
    end_centre = state.centre if few else _finite_mean(trajectory.q)
    measured = jumps(
        state.metric.root_solve(chains.q - centre),
        state.metric.root_solve(trajectory.q - end_centre),
        state.metric.root_solve(trajectory.velocity),
        acceptance,
        time,
    )
    state.length = length_update(state.length, measured, len(chains.q))


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
    if not secants:  # points outside the bulk would widen the metric
        near = energy <= _ceiling(energy, state.potential_spread(q.shape[1]))
        q, grad = q[near], grad[near]
    stride = -(-len(q) // max(_MOST_ROWS, 20 * q.shape[1]))
    q, grad = q[::stride], grad[::stride]
    # a dense metric has dim**2 numbers, too many for fewer points than this
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


def restart_lost_chains(
    state: Adaptation, chains: ChainState, uniform: Tensor
) -> ChainState:
    """Put chains outside the bulk, or that never moved, where other chains are.

    Args:
        state: of the warm-up; counts the chains.
        chains: where they are.
        uniform: numbers to choose the other chains with, `(chains,)`.

    Returns:
        The chains. They stay as they are where too few are left to start from.
    """
    if len(state.energies) < 2 or len(chains.q) < 4:
        return chains
    energies = torch.stack(state.energies[-CYCLE:]).double()
    if not bool(energies.isfinite().any()):
        return chains
    best = energies.min(0).values
    # each chain is judged by its best point, so that one bad transition is no matter
    outside = best > _ceiling(energies, state.potential_spread(chains.q.shape[1]))
    stuck = (energies == energies[0]).all(0) & (len(energies) >= CYCLE)
    lost = outside | stuck | ~best.isfinite()
    healthy = (~lost).nonzero().flatten()
    # fewer than one healthy chain in eight may be the ones that are wrong
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
    # a low quantile, not the minimum: one point in a narrow spike sets no standard
    best = energies[energies.isfinite()].quantile(0.05)
    return best + _RESTART_GAP + 5 * spread
