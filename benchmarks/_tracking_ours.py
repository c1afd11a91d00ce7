"""Our tracker in the benchmark: one preset a domain, and nothing tuned per case."""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from _tracking_rules import Array
from _tracking_scenes import SIGMA

from pyro_geo.errors import TrackLostWarning
from pyro_geo.filtering import (
    BoundedTracker,
    Level,
    NearConstantVelocity,
    Position,
    Random,
    RangeBearing,
    Track,
)

TRACED = 1_000  # steps that do not pay for a compiler
COVERED = 3.841  # 95 % of a chi-square of one degree


class Tracked(NamedTuple):
    """What our tracker found.

    Attributes:
        mean: positions, `(tracks, time, 2)`.
        cov: their covariances, `(tracks, time, 2, 2)`.
        severed: nats refused of every report, `(tracks, time)`.
    """

    mean: Array
    cov: Array
    severed: Array


def filtered(
    tracker: BoundedTracker,
    y: Array,
    t: Array,
    compile: bool | Literal["auto"] = "auto",
) -> Track:
    """Run a tracker; that tracks are lost is what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackLostWarning)
        return tracker.filter(
            torch.as_tensor(y), torch.as_tensor(t), progress_bar=False
        )


def tracked(tracker: BoundedTracker, y: Array, t: Array) -> Tracked:
    """Run a tracker for its positions."""
    found = filtered(tracker, y, t)
    place = found.position.shape[-1]
    cov = found.cov[..., :place, :place]
    return Tracked(found.position.numpy(), cov.numpy(), found.severed.numpy())


def lidar_tracker() -> BoundedTracker:
    """The preset for range and bearing."""
    return BoundedTracker.preset("lidar", noise=tuple(map(float, SIGMA)))


def plain_tracker(q: float) -> BoundedTracker:
    """An extended Kalman filter: no faults, one motion."""
    R = torch.diag(torch.as_tensor(SIGMA) ** 2)
    return BoundedTracker(NearConstantVelocity(q), RangeBearing(), R, faults=())


def filter_lidar(y: Array, t: Array) -> Tracked:
    """Filter ranges and bearings."""
    return tracked(lidar_tracker(), y, t)


def filter_plane(preset: str, y: Array, t: Array, noise: float) -> Tracked:
    """Filter positions by a preset."""
    return tracked(BoundedTracker.preset(preset, noise=noise), y, t)


def filter_level(jumps: bool, y: Array, level: Array) -> tuple[Array, float]:
    """Filter levels; means, and how often 95 % hold the level.

    Args:
        jumps: as the preset has it, or one motion alone.
        y: reports with noise of one, `(series, time)`.
        level: what they report.

    Returns:
        Means, and the coverage.
    """
    t = np.arange(float(y.shape[1]))
    motions = {} if jumps else {"dynamics": [Level(0.04)]}
    tracker = BoundedTracker.preset("level", noise=1.0, **motions)
    found = tracked(tracker, y[..., None], t)
    square = (found.mean[..., 0] - level) ** 2 / found.cov[..., 0, 0]
    return found.mean[..., 0], float((square < COVERED).mean())


def level_evidence(y: Array, choices: Sequence[tuple[float, ...]]) -> Array:
    """Log-density of each report given the past.

    Args:
        y: one series, `(time,)`.
        choices: variance of a step, variance of the noise, and how many deviations of
            the noise an outlier has.

    Returns:
        Log-densities, `(choices, time)`.
    """
    motions, faults = [Level(1e-3), Level(3e-2)], [Random(stay=0.3)]
    tracker = BoundedTracker(motions, Position(1), 1e-2, faults=faults, p_fault=0.1)
    t, logs = np.arange(float(len(y))), []
    for q, R, far in choices:
        values = {
            "q": torch.tensor([[q], [30.0 * q]]),
            "R": torch.tensor([[R]]),
            "scale": torch.tensor([[far * R**0.5]]),
        }
        found = filtered(tracker.given(values), y[None, :, None], t, len(y) > TRACED)
        logs.append(found.log_evidence[0].numpy())
    return np.stack(logs)
