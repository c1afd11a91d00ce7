"""The second half of a step: the report is weighed, and the lanes learn from it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.belief import Parameters
from pyro_geo.filtering.tracker.bounds import log_speed_mass, velocity_moments
from pyro_geo.filtering.tracker.plan import Lanes, Plan
from pyro_geo.filtering.tracker.sensors import Report, widened
from pyro_geo.filtering.tracker.update import (
    Innovation,
    Learned,
    ekf,
    learn,
    log_normal,
    ukf,
)

__all__ = ["SEVERED_NATS", "Scored", "scored"]

SEVERED_NATS = 20.0
"""A run that is this many nats behind the best one has a weight of exactly zero."""

# Squared distance at which a nominal report is as improbable as it can get: further
# than any fault's, so that what is far from everything is never nominal.
_FARTHEST = 1e8


class Scored(NamedTuple):
    """What a report says of the lanes.

    Attributes:
        learned: lanes in which the state learns, after the report.
        score: logarithm of prior and density of each lane, minus infinity for lanes
            that have no weight.
        odds: log-odds of a nominal sensor before the report.
        nis: squared distance of the report from a nominal one.
    """

    learned: Learned
    score: Tensor
    odds: Tensor
    nis: Tensor


def scored(
    plan: Plan, params: Parameters, lanes: Lanes, last: Tensor, y: Tensor, use: Tensor
) -> Scored:
    """Score every lane by the report, and let it learn what its mode teaches.

    Args:
        plan: fixed parts of the tracker.
        params: its numbers.
        lanes: before the report.
        last: previous report, `(m, tracks)`.
        y: report, `(m, tracks)`; any number where there is none.
        use: tracks with a report, `(tracks,)`.

    Returns:
        What it says.
    """
    linearize = ukf if plan.sigma_points else ekf
    seen = linearize(plan.measurement, lanes.mean, lanes.cov)
    residual = plan.measurement.residual(y[:, None, None], seen.prediction)
    learned, density = _learned(plan, params, lanes, seen, residual, use)
    if plan.slots.deaf:
        others = _faulty(plan, params, seen, residual, last, y)
        density = torch.cat([density, others])
    density = torch.where(use, density, 0.0)
    prior = lanes.weight
    if prior.shape[:2] == (1, 1):  # a plain filter, whose weight is one
        nothing = torch.zeros_like(prior[0, 0])
        return Scored(learned, density, nothing, learned.distance[0, 0])
    some = prior > 0
    score = torch.where(some, torch.where(some, prior, 1.0).log() + density, -math.inf)
    nominal = plan.slots.nominal
    believed = prior[nominal].sum((0, 1))
    distance = learned.distance[nominal].clamp(max=_FARTHEST)
    nis = (prior[nominal] * distance).sum((0, 1)) / believed
    # a sum over the faults: one minus the other would lose them by rounding
    failed = prior[: nominal.start].sum((0, 1)) + prior[nominal.stop :].sum((0, 1))
    return Scored(learned, score, believed.log() - failed.log(), nis)


def _learned(
    plan: Plan,
    params: Parameters,
    lanes: Lanes,
    seen: Innovation,
    residual: Tensor,
    use: Tensor,
) -> tuple[Learned, Tensor]:
    """Update the lanes that learn, and score them."""
    slots = plan.slots
    count, size = slots.first_deaf, residual.shape[0]
    mean = tuple(x[:, :count] for x in lanes.mean)
    cov = tuple(p[:, :, :count] for p in lanes.cov)
    seen = Innovation(
        seen.prediction[:, :count],
        seen.cov[:, :, :count],
        tuple(c[:, :, :count] for c in seen.cross),
        None if seen.slope is None else tuple(s[:, :, :count] for s in seen.slope),
        seen.reads,
    )
    noise = _noise(plan, params)
    far = _FARTHEST if plan.faults else math.inf
    learned = learn(mean, cov, lanes.bias, seen, residual[:, :count], noise, use, far)
    distance = learned.distance
    if slots.biased:
        # a bias this large is none that the fault could have drawn
        biased = torch.arange(count, device=distance.device) >= slots.first_biased
        beyond = biased[:, None, None] & (distance > 2 * SEVERED_NATS)
        distance = torch.where(beyond, _FARTHEST, distance)
    density = log_normal(distance, learned.log_volume, size, far)
    if plan.speed is not None:
        weights = tuple(plan.dynamics[0].velocity or ())
        before = log_speed_mass(*velocity_moments(weights, mean, cov), *plan.speed)
        after = log_speed_mass(
            *velocity_moments(weights, learned.mean, learned.cov), *plan.speed
        )
        density = density + (after - before)
    return learned, density


def _noise(plan: Plan, params: Parameters) -> Tensor:
    """Give the covariance of a report in each lane that learns."""
    slots = plan.slots
    size = params.R.shape[0]
    noise = params.R.reshape(size, size, 1, 1, -1)
    extra = [m for m in slots.order[1:] if slots.learns[m] == "all"]
    if not extra:
        return noise
    none = torch.zeros_like(params.scale[0])
    own = [params.scale[m - 1] if m in extra else none for m in slots.order]
    new = torch.stack(own, 1)
    kept = torch.stack([own[m] for m in slots.slot_mode], 1)
    rows = slots.arranged(kept, new, -1)[:, : slots.first_deaf]
    return widened(noise, rows[:, :, None, None])


def _faulty(
    plan: Plan,
    params: Parameters,
    seen: Innovation,
    residual: Tensor,
    last: Tensor,
    y: Tensor,
) -> Tensor:
    """Score the lanes that learn nothing by the densities of their faults."""
    slots = plan.slots
    size = y.shape[0]
    step = plan.measurement.residual(y, last)[:, None, None]
    spread = seen.cov + params.R.reshape(size, size, 1, 1, -1)
    parts = []
    for number, mode in enumerate(slots.order[-slots.deaf :]):
        both = slice(slots.first_deaf + number, None, slots.deaf)  # kept and new
        report = Report(
            seen.prediction[:, both],
            residual[:, both],
            spread[:, :, both],
            step,
            params.scale[mode - 1][:, None, None, None],
        )
        density = plan.faults[mode - 1].log_density(report)
        parts.append(density.expand(2, *residual.shape[2:]))
    return torch.stack(parts, 1).flatten(0, 1)
