"""What a track believes after its first report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.belief import Parameters
from pyro_geo.filtering.tracker.dynamics import Dynamics
from pyro_geo.filtering.tracker.measurements import Measurement
from pyro_geo.filtering.tracker.mixing import Bias, Blocks, pairs
from pyro_geo.filtering.tracker.slots import Slots

__all__ = ["Start", "first_belief"]


class Start(NamedTuple):
    """The first belief; every tensor broadcasts against lanes.

    Attributes:
        mean: of the state.
        cov: of the state.
        bias: of the report, in the slots that have one; empty where none does.
        weight: of each slot.
        mixed: covariance of the state over all slots.
    """

    mean: Blocks
    cov: Blocks
    bias: Bias | tuple[()]
    weight: Tensor
    mixed: Blocks


def first_belief(
    slots: Slots,
    dynamics: Sequence[Dynamics],
    measurement: Measurement,
    params: Parameters,
    y: Tensor,
) -> Start:
    r"""Turn a first report into a belief, one run of each mode.

    Nothing was known of the position, so that a nominal sensor leaves it at the report
    with the covariance of the noise; a sensor that fails adds that of the fault. A bias
    that such a report began with is as large as the position is off, the other way:

    .. math:: x \sim N(y, R + S_b), \quad b \sim N(0, S_b), \quad
        \mathrm{Cov}(x, b) = -S_b

    each times the derivative of the position by the report.

    Args:
        slots: where the runs stand.
        dynamics: motions of the target.
        measurement: what a nominal sensor reports.
        params: numbers of the tracker.
        y: reports, `(m, tracks)`.

    Returns:
        The first belief.

    References:
        Derived: the posterior under a flat prior of the position.
    """
    orders, axes = dynamics[0].orders, dynamics[0].axes
    size = y.shape[0]
    eye = torch.eye(size, dtype=y.dtype, device=y.device).reshape(size, size, 1, 1, 1)
    noise = params.R.reshape(size, size, 1, 1, -1) + eye * _added(slots, params)
    place = measurement.locate(y)[:, None, None]
    here = noise
    turn = None
    if not measurement.identity:
        turn = measurement.locate_slope(y)[:, :, None, None]
        here = _times(_times(turn, noise), turn.transpose(0, 1))
    sd = y.new_tensor([d.start_sd for d in dynamics])  # (dynamics, orders - 1)
    square = torch.eye(axes, dtype=y.dtype, device=y.device).reshape(
        axes, axes, 1, 1, 1
    )
    nowhere = torch.zeros_like(square)
    cov = [
        here
        if (a, b) == (0, 0)
        else square * (sd[:, a - 1] ** 2)[None, :, None]
        if a == b
        else nowhere
        for a, b in pairs(orders)
    ]
    mean = (place, *[torch.zeros_like(place)] * (orders - 1))
    bias: Bias | tuple[()] = ()
    if slots.biased:
        first = slots.plain
        drawn = eye * _added(slots, params)[:, first : first + slots.biased]
        cross = -drawn if turn is None else -_times(turn, drawn)
        none = torch.zeros_like(cross)
        bias = Bias(torch.zeros_like(drawn[0]), drawn, (cross, *[none] * (orders - 1)))
    chance = slots.chain(params.p_fault, params.share, params.stay, params.recover)[0]
    once = [float(s in slots.first_slot) for s in range(slots.kept)]
    chance = torch.stack([chance[m] for m in slots.slot_mode]) * y.new_tensor(once)
    chance = chance[:, None, None]
    share = (
        torch.ones_like(sd[:, :1]) / len(dynamics)
        if orders > 1
        else y.new_full((len(dynamics), 1), 1 / len(dynamics))
    )
    weight = chance * share
    mixed = tuple(
        (p * weight).sum((-3, -2)).expand(axes, axes, y.shape[1]) for p in cov
    )
    return Start(mean, tuple(cov), bias, weight, mixed)


def _times(left: Tensor, right: Tensor) -> Tensor:
    return (left.unsqueeze(2) * right.unsqueeze(0)).sum(1)


def _added(slots: Slots, params: Parameters) -> Tensor:
    """Give the variance that each slot's fault adds to a report, `(m, slots, 1, 1)`."""
    size = params.R.shape[0]
    none = torch.zeros_like(params.R.reshape(size, size, -1)[0, :, 0])
    if slots.modes == 1:
        return none[:, None, None, None].expand(size, slots.kept, 1, 1)
    square = params.scale**2
    widest = square.amax(0)
    by_mode = []
    for mode in slots.order:
        if mode == 0:
            by_mode.append(none)
        else:
            by_mode.append(
                widest if slots.learns[mode] == "nothing" else square[mode - 1]
            )
    rows = torch.stack([by_mode[m] for m in slots.slot_mode], 1)
    return rows[:, :, None, None]
