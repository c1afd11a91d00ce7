"""The end of a step: moments are read off, and the best runs of each mode are kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.mixing import Bias, Blocks, block, matched
from pyro_geo.filtering.tracker.plan import Lanes
from pyro_geo.filtering.tracker.score import SEVERED_NATS, Scored
from pyro_geo.filtering.tracker.slots import Slots

__all__ = ["Kept", "flat", "kept", "mixture", "mode_prob", "unsound"]

_JITTER = 1e-6


def mixture(weight: Tensor, mean: Blocks, cov: Blocks) -> tuple[Blocks, Blocks]:
    """Merge all lanes of each track.

    Args:
        weight: of each lane, `(runs, dynamics, tracks)`, adding up to one.
        mean: of the state.
        cov: of the state.

    Returns:
        Mean and covariance without lanes, `(axes, tracks)` and `(axes, axes, tracks)`.
    """
    if weight.shape[:2] == (1, 1):
        return tuple(x[..., 0, 0, :] for x in mean), tuple(p[..., 0, 0, :] for p in cov)
    centre, spread, _ = matched(mean, cov, weight, (-3, -2))
    return centre, spread


def flat(mean: Blocks, cov: Blocks) -> tuple[Tensor, Tensor]:
    """Write the orders of a state one after another.

    Args:
        mean: each order, `(axes, tracks)`.
        cov: each block, `(axes, axes, tracks)`.

    Returns:
        Mean `(n, tracks)` and covariance `(n, n, tracks)`.
    """
    orders = range(len(mean))
    blocks = [block(cov, len(mean), a, b) for a in orders for b in orders]
    square = torch.stack(blocks).unflatten(0, (len(mean), len(mean)))
    return torch.cat(mean), square.transpose(1, 2).flatten(0, 1).flatten(1, 2)


def mode_prob(slots: Slots, weight: Tensor) -> Tensor:
    """Add up the runs of each mode.

    Args:
        slots: where the runs stand.
        weight: of each slot, `(kept, tracks)`.

    Returns:
        Probabilities in the order in which the modes were given, `(modes, tracks)`.
    """
    if slots.modes == 1 and weight.shape[0] == 1:
        return weight
    sums = [weight[start:stop].sum(0) for start, stop in slots.slot_spans]
    return torch.stack([sums[slots.order.index(k)] for k in range(slots.modes)])


def unsound(cov: Blocks, orders: int) -> Tensor:
    """Find covariances that are not positive definite, after a jitter of one millionth.

    Args:
        cov: blocks of `(axes, axes, tracks)`.
        orders: vectors in the state.

    Returns:
        Whether each is not, or is not finite, `(tracks,)`.
    """
    axes = range(cov[0].shape[0])
    places = [(a, i) for a in range(orders) for i in axes]
    whole = [[block(cov, orders, a, b)[i, j] for b, j in places] for a, i in places]
    size = range(len(places))
    largest = torch.finfo(cov[0].dtype).max
    bad = torch.zeros_like(whole[0][0], dtype=torch.bool)
    for i in size:
        bad = bad | ~((whole[i][i] > 0) & (whole[i][i] < largest))
    sd = [torch.where(bad, 1.0, whole[i][i]).sqrt() for i in size]
    rest = [[whole[i][j] / (sd[i] * sd[j]) for j in range(i + 1)] for i in size]
    for k in size:
        pivot = rest[k][k] + _JITTER
        bad = bad | ~(pivot > 0)
        pivot = torch.where(bad, 1.0, pivot)
        for i in size[k + 1 :]:
            for j in range(k + 1, i + 1):
                rest[i][j] = rest[i][j] - rest[i][k] * rest[j][k] / pivot
    return bad


class Kept(NamedTuple):
    """The runs that go on.

    Attributes:
        mean: of the state.
        cov: of the state.
        bias: of the report, in the slots that have one.
        weight: of each, adding up to one.
        log_evidence: log-density of the report, over all lanes.
        severed: nats by which it was refused.
    """

    mean: Blocks
    cov: Blocks
    bias: Bias | None
    weight: Tensor
    log_evidence: Tensor
    severed: Tensor


def kept(slots: Slots, lanes: Lanes, told: Scored, use: Tensor) -> Kept:
    """Keep the best runs of each mode: a new run takes the place of a worse one.

    Args:
        slots: where the runs stand.
        lanes: before the report.
        told: what the report said of them.
        use: tracks with a report, `(tracks,)`.

    Returns:
        The runs that are kept.
    """
    learned, score = told.learned, told.score
    single = score.shape[:2] == (1, 1)
    log_evidence = score[0, 0] if single else torch.logsumexp(score, (0, 1))
    if slots.modes == 1:
        weight = torch.ones_like(score) if single else (score - log_evidence).exp()
        nothing = torch.zeros_like(log_evidence)
        mean, cov, bias = learned.mean, learned.cov, learned.bias
        return Kept(mean, cov, bias, weight, log_evidence, nothing)
    device = score.device
    hearing, first, deaf = slots.plain + slots.biased, slots.first_deaf, slots.deaf
    new = torch.tensor(slots.lane_of_new, device=device)

    def old(t: Tensor, axis: int = -3) -> Tensor:
        heard = t.narrow(axis, slots.new_plain, hearing)
        if not deaf:
            return heard
        return torch.cat([heard, t.narrow(axis, first, deaf)], axis)

    # as logarithms: weights of runs far behind are zero, and equal
    runs = torch.logsumexp(score.detach(), 1)
    swap = _replaced(slots, old(runs, -2), runs.index_select(0, new))[:, None]
    here = torch.where(swap, score.index_select(0, new), old(score))
    stop = slots.slot_spans[0][1]
    nominal = torch.logsumexp(here[:stop], (0, 1))
    fault = torch.logsumexp(here[stop:], (0, 1))
    severed = torch.where(use, told.odds - (nominal - fault), 0.0)
    weight = (here - torch.logaddexp(nominal, fault)).exp()
    whole = weight.sum(1)
    behind = use & (whole < math.exp(-SEVERED_NATS) * whole.amax(0))
    weight = torch.where(behind[:, None], 0.0, weight)
    weight = weight / weight.sum((0, 1))

    def best(after: Tensor, before: Tensor) -> Tensor:
        mine = after.narrow(-3, slots.new_plain, hearing)
        rival = after.index_select(-3, new[:hearing])
        parts = [torch.where(swap[:hearing], rival, mine)]
        if deaf:
            quiet = before.narrow(-3, first, deaf)
            rival = before.narrow(-3, first + deaf, deaf)
            parts.append(torch.where(swap[hearing:], rival, quiet))
        return torch.cat(parts, -3)

    bias = learned.bias
    if bias is not None:
        chosen = swap[slots.plain : hearing]
        rivals = new[slots.plain : hearing] - slots.first_biased

        def some(t: Tensor) -> Tensor:
            mine = t.narrow(-3, 0, slots.biased)
            return torch.where(chosen, t.index_select(-3, rivals), mine)

        bias = Bias(some(bias.mean), some(bias.cov), tuple(map(some, bias.cross)))
    mean = tuple(map(best, learned.mean, lanes.mean))
    cov = tuple(map(best, learned.cov, lanes.cov))
    return Kept(mean, cov, bias, weight, log_evidence, severed)


def _replaced(slots: Slots, mine: Tensor, rival: Tensor) -> Tensor:
    """Find slots with the worst run of their mode, if the new run is better."""
    count = range(slots.kept)
    mode = slots.slot_mode
    other = [[mode[i] == mode[j] for j in count] for i in count]
    before = [[j < i for j in count] for i in count]
    same = torch.tensor(other, device=mine.device)[:, :, None]
    first = torch.tensor(before, device=mine.device)[:, :, None]
    # of equal ones the first is the worst
    worse = (mine < mine[:, None]) | ((mine == mine[:, None]) & first)
    return (rival > mine) & ~(worse & same).any(1)
