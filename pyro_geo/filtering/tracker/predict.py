"""The first half of a step: the target moves, and runs begin."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.belief import Belief, Parameters
from pyro_geo.filtering.tracker.dynamics import Dynamics, Table
from pyro_geo.filtering.tracker.mixing import (
    Bias,
    Blocks,
    matched,
    matched_bias,
    moved,
    moved_cov,
)
from pyro_geo.filtering.tracker.plan import Lanes, Plan

__all__ = ["branched", "predicted"]


def predicted(plan: Plan, params: Parameters, belief: Belief, lapse: Tensor) -> Lanes:
    """Mix the dynamics of each run and move its lanes.

    Args:
        plan: fixed parts of the tracker.
        params: its numbers.
        belief: after the step before.
        lapse: time that passes, `(tracks,)`, not negative.

    Returns:
        Lanes `(kept, dynamics, tracks)`.
    """
    mean, cov, weight = belief.mean, belief.cov, belief.weight
    bias = belief.bias if isinstance(belief.bias, Bias) else None
    if len(plan.dynamics) > 1:
        mean, cov, bias, weight = _mixed(plan, params.switch, mean, cov, bias, weight)
    rows, noise = _tables(plan.dynamics, params.q, lapse)
    if bias is not None:
        # the cross-covariance moves as a state does: its rows are those of the state
        bias = Bias(bias.mean, bias.cov, moved(rows, bias.cross))
    return Lanes(moved(rows, mean), moved_cov(rows, noise, cov), bias, weight)


def _mixed(
    plan: Plan,
    switch: Tensor,
    mean: Blocks,
    cov: Blocks,
    bias: Bias | None,
    weight: Tensor,
) -> tuple[Blocks, Blocks, Bias | None, Tensor]:
    """Let the target change its dynamics, inside each run."""
    chances = switch[:, :, None]  # (from, to, 1)
    joint = weight.unsqueeze(-2) * chances  # (runs, from, to, tracks)
    total = joint.sum(-3)
    share = _shares(joint, total.unsqueeze(-3), chances / chances.sum(0))
    mean = tuple(x.unsqueeze(-2) for x in mean)
    cov = tuple(p.unsqueeze(-2) for p in cov)
    mixed, spread, gap = matched(mean, cov, share, (-3,))
    if bias is not None:
        first = plan.slots.plain
        last = first + plan.slots.biased
        bias = Bias(
            bias.mean.unsqueeze(-2),
            bias.cov.unsqueeze(-2),
            tuple(c.unsqueeze(-2) for c in bias.cross),
        )
        some = tuple(g[:, first:last] for g in gap)
        bias = matched_bias(bias, some, share[first:last], (-3,))
    return mixed, spread, bias, total


def _shares(part: Tensor, total: Tensor, otherwise: Tensor) -> Tensor:
    """Divide weights by their sum; where it is zero any shares will do."""
    some = total > 0
    return torch.where(some, part / torch.where(some, total, 1.0), otherwise)


def _tables(
    dynamics: tuple[Dynamics, ...], q: Tensor, lapse: Tensor
) -> tuple[Table, Table]:
    """Write the matrices of all dynamics, entries `(dynamics, tracks)`."""
    first, count = dynamics[0], len(dynamics)
    if all(_alike(first, other) for other in dynamics[1:]):
        values = [q[:, k, None] for k in range(len(first.values))]
        dt = lapse.expand(count, -1)
        return first.transition(dt, values), first.noise(dt, values)
    transitions = [
        d.transition(lapse, list(row)) for d, row in zip(dynamics, q, strict=True)
    ]
    noises = [d.noise(lapse, list(row)) for d, row in zip(dynamics, q, strict=True)]
    return _stacked(transitions, lapse), _stacked(noises, lapse)


def _alike(one: Dynamics, other: Dynamics) -> bool:
    """Whether two dynamics differ in nothing but their values."""
    if type(one) is not type(other):
        return False
    mine, theirs = dict(vars(one)), dict(vars(other))
    for name in ("values", "start_sd"):
        del mine[name], theirs[name]
    return mine == theirs


def _stacked(tables: list[Table], lapse: Tensor) -> Table:
    size = range(len(tables[0]))
    return [[_entry([t[a][b] for t in tables], lapse) for b in size] for a in size]


def _entry(entries: list[Tensor | float], lapse: Tensor) -> Tensor | float:
    first = entries[0]
    if not any(isinstance(entry, Tensor) for entry in entries):
        if all(entry == first for entry in entries):
            return first
    rows = [torch.as_tensor(entry).to(lapse).expand_as(lapse) for entry in entries]
    return torch.stack(rows)


def branched(plan: Plan, params: Parameters, lanes: Lanes, use: Tensor) -> Lanes:
    """Continue each run, and begin one of each mode from the runs of all others.

    Args:
        plan: fixed parts of the tracker.
        params: its numbers.
        lanes: that were predicted.
        use: tracks with a report, `(tracks,)`; in the others no mode ends.

    Returns:
        Lanes `(runs, dynamics, tracks)`, in the order of the slots' lanes.
    """
    slots = plan.slots
    if slots.modes == 1:
        return lanes
    chain = slots.chain(params.p_fault, params.share, params.stay, params.recover)
    like = {"dtype": chain.dtype, "device": chain.device}
    apart = torch.tensor(
        [[float(m != own) for own in slots.slot_mode] for m in range(slots.modes)],
        **like,
    )[:, :, None, None]
    from_slot = torch.stack([chain[m] for m in slots.slot_mode], 1)  # (modes, slots)
    stays = torch.stack([chain[m, m] for m in slots.slot_mode])[:, None, None]
    arriving = lanes.weight * (from_slot[:, :, None, None] * apart)
    total = arriving.sum(1)
    share = _shares(arriving, total[:, None], apart / apart.sum(1, keepdim=True))
    mean = tuple(x.unsqueeze(-4) for x in lanes.mean)
    cov = tuple(p.unsqueeze(-4) for p in lanes.cov)
    new_mean, new_cov, _ = matched(mean, cov, share, (-3,))
    new_weight = torch.where(use, total, 0.0)
    return Lanes(
        tuple(map(slots.arranged, lanes.mean, new_mean)),
        tuple(map(slots.arranged, lanes.cov, new_cov)),
        _with_new_bias(plan, params, lanes.bias, use),
        slots.arranged(lanes.weight * torch.where(use, stays, 1.0), new_weight),
    )


def _with_new_bias(
    plan: Plan, params: Parameters, bias: Bias | None, use: Tensor
) -> Bias | None:
    """Let each bias walk, and draw one for the new run of each mode that has one."""
    if bias is None:
        return None
    slots = plan.slots
    size = bias.mean.shape[0]
    eye = torch.eye(size, dtype=bias.mean.dtype, device=bias.mean.device)
    eye = eye.reshape(size, size, 1, 1, 1)
    modes = [m - 1 for m in slots.order if slots.learns[m] == "motion"]
    owners = slots.slot_mode[slots.plain : slots.plain + slots.biased]
    own = [modes[m - slots.plain_modes] for m in owners]
    walk = torch.stack([params.walk[k] for k in own], 1)[:, :, None, None] ** 2
    drawn = torch.stack([params.scale[k] for k in modes], 1)[:, :, None, None] ** 2
    count = len(modes)
    none = torch.zeros_like(bias.mean[:, :count])
    fresh = (eye * drawn).expand(-1, -1, -1, *bias.mean.shape[2:])
    return Bias(
        torch.cat([bias.mean, none], -3),
        torch.cat([bias.cov + eye * torch.where(use, walk, 0.0), fresh], -3),
        tuple(
            torch.cat([c, torch.zeros_like(c[:, :, :count])], -3) for c in bias.cross
        ),
    )
