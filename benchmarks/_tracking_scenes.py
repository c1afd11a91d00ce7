"""Simulated targets whose sensor lies: a LiDAR, a blackout, decoys in real cruise.

Every scene is a batch over seeds. Path, noise and faults of a seed come from generators
of their own, so that all LiDAR cases share the paths and the noise, and all kinds of
burst share the times at which they happen.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Flags = NDArray[np.bool_]

TUNE, REPORT = tuple(range(6)), tuple(range(300, 316))
LIDAR = "clean clutter burst multipath spike mixed wander iid ghost long".split()
SPEED, DT, STEPS = 8.0, 0.1, 300
SIGMA = np.array([0.15, np.radians(0.6)])
RANGE, BEARING = (2.0, 120.0), (-np.pi / 2, np.pi / 2)  # the field of view


class Scene(NamedTuple):
    """Tracks of one case, one for each seed.

    Attributes:
        t: seconds, `(time,)`.
        truth: position and velocity, `(seeds, time, 4)` as x, y, vx, vy.
        y: reports, `(seeds, time, m)`, NaN where there is none.
        bad: which reports are false, `(seeds, time)`.
    """

    t: Array
    truth: Array
    y: Array
    bad: Flags


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Make the generator of one purpose of a seed."""
    words = [zlib.crc32(str(part).encode()) for part in name]
    return np.random.default_rng([seed, *words])


def polar(position: Array) -> Array:
    """Range and bearing of positions `(*batch, 2)` seen from the origin."""
    x, y = position[..., 0], position[..., 1]
    return np.stack([np.hypot(x, y), np.arctan2(y, x)], -1)


def path(seed: int) -> Array:
    """Drive with three turns inside the field of view: `(STEPS, 4)`.

    Paths that leave the field or come near the sensor are drawn again.
    """
    rng = stream(seed, "path")
    while True:
        rate = np.zeros(STEPS)
        for start in (30, 120, 210):
            first = start + rng.integers(0, 40)
            turn = rng.uniform(0.5, 1.1) * rng.choice([-1.0, 1.0])
            rate[first : first + rng.integers(15, 31)] = turn
        heading = rng.uniform(-np.pi, np.pi) + DT * np.cumsum(rate)
        velocity = SPEED * np.stack([np.cos(heading), np.sin(heading)], -1)
        start_at = np.array([rng.uniform(15.0, 70.0), rng.uniform(-50.0, 50.0)])
        position = start_at + DT * (np.cumsum(velocity, 0) - velocity[0])
        seen = polar(position)
        inside = np.abs(seen[:, 1]) < BEARING[1] - 0.1
        if (inside & (seen[:, 0] > 10.0) & (seen[:, 0] < RANGE[1] - 10.0)).all():
            return np.concatenate([position, velocity], -1)


def spans(
    rng: np.random.Generator, count: int, shortest: int, longest: int
) -> list[slice]:
    """Place runs of steps, one in each equal share of the time after a second."""
    edges = np.linspace(10, STEPS, count + 1).astype(int)
    runs = []
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        length = int(rng.integers(shortest, longest + 1))
        start = int(rng.integers(first, max(first + 1, last - length)))
        runs.append(slice(start, start + length))
    return runs


def burst(y: Array, bad: Flags, seed: int, kind: str) -> None:
    """Report four runs of steps from nearer than the target is."""
    rng = stream(seed, "burst", "long" if kind == "long" else "short")
    lengths = (20, 40) if kind == "long" else (5, 12)
    offsets = stream(seed, "offset", kind)
    for run in spans(rng, 4, *lengths):
        count = len(y[run])
        offset = np.full(count, offsets.uniform(3.0, 8.0))
        if kind == "wander":
            offset = offset + np.cumsum(offsets.normal(0.0, 0.3, count))
        if kind == "iid":
            offset = offsets.uniform(3.0, 8.0, count)
        y[run, 0] -= offset
        if kind == "ghost":  # where the first false report was, from then on
            y[run] = y[run.start] + SIGMA * offsets.normal(size=(count, 2))
        bad[run] = True


def multipath(y: Array, bad: Flags, seed: int) -> None:
    """Report short runs from a little farther than the target is."""
    rng = stream(seed, "multipath")
    for run in spans(rng, 11, 2, 5):
        y[run, 0] += rng.uniform(0.8, 3.0)
        bad[run] = True


def alone(y: Array, bad: Flags, seed: int, kind: str) -> None:
    """Replace single reports: clutter anywhere in the field, spikes far outside."""
    rng = stream(seed, kind)
    hit = rng.random(STEPS) < (0.1 if kind == "clutter" else 0.03)
    hit[0] = False
    if kind == "clutter":
        lower, upper = np.array([RANGE, BEARING]).T
        false = rng.uniform(lower, upper, (STEPS, 2))
    else:
        far = 10.0 ** rng.uniform(1.0, 6.0, STEPS)
        false = np.stack([y[:, 0] + far, y[:, 1]], -1)
    y[hit] = false[hit]
    bad |= hit


def lidar(case: str, seeds: Sequence[int] = REPORT) -> Scene:
    """Simulate range and bearing of a turning target, with the faults of a case.

    Args:
        case: one of `LIDAR`.
        seeds: a track each.

    Returns:
        The tracks; reports are range in metres and bearing in radians.
    """
    truth = np.stack([path(seed) for seed in seeds])
    noise = np.stack([stream(seed, "noise").normal(size=(STEPS, 2)) for seed in seeds])
    y = polar(truth[..., :2]) + SIGMA * noise
    bad = np.zeros(y.shape[:2], bool)
    for i, seed in enumerate(seeds):
        if case in ("burst", "wander", "iid", "ghost", "long", "mixed"):
            burst(y[i], bad[i], seed, "burst" if case == "mixed" else case)
        if case in ("multipath", "mixed"):
            multipath(y[i], bad[i], seed)
        for kind in ("clutter", "spike"):
            if case in (kind, "mixed"):
                alone(y[i], bad[i], seed, kind)
    return Scene(DT * np.arange(STEPS), truth, y, bad)


ROVER_SPEED, ROVER_DT, ROVER_SIGMA = 1.4, 0.2, 1.0
ROVER_BLIND, ROVER_FALSE, ROVER_AFTER = 460.0, 20.0, 120.0  # seconds


def blackout(
    seeds: Sequence[int] = tuple(range(200, 220)), blind: float = ROVER_BLIND
) -> Scene:
    """Simulate a rover that is blind, then sees itself 700 m to the side, then well.

    The false fixes follow its motion: nothing in them says that they are false.

    Args:
        seeds: a track each.
        blind: seconds without a report.

    Returns:
        The tracks; reports are positions in metres.
    """
    ends = np.cumsum([60.0, blind, ROVER_FALSE, ROVER_AFTER])
    t = ROVER_DT * np.arange(round(ends[-1] / ROVER_DT))
    false = (t >= ends[1]) & (t < ends[2])
    truth, reports = [], []
    for seed in seeds:
        rng = stream(seed, "rover")
        turns = rng.normal(0.0, 0.02 * np.sqrt(ROVER_DT), len(t))
        heading = rng.uniform(-np.pi, np.pi) + np.cumsum(turns)
        velocity = ROVER_SPEED * np.stack([np.cos(heading), np.sin(heading)], -1)
        position = ROVER_DT * (np.cumsum(velocity, 0) - velocity[0])
        side = rng.uniform(-np.pi, np.pi)
        y = position + ROVER_SIGMA * rng.normal(size=position.shape)
        y[false] += 700.0 * np.array([np.cos(side), np.sin(side)])
        y[(t >= ends[0]) & (t < ends[1])] = np.nan
        truth.append(np.concatenate([position, velocity], -1))
        reports.append(y)
    bad = np.broadcast_to(false, (len(seeds), len(t))).copy()
    return Scene(t, np.stack(truth), np.stack(reports), bad)


def decoys(
    t: Array, position: Array, reports: Array, seeds: Sequence[int] = range(200)
) -> Scene:
    """Put a hovering decoy into windows of real cruise, a blind gap before it.

    The receiver is blind for 40 to 120 s, and then reports for 90 to 200 s an aircraft
    that hovers 12 to 40 km aside at up to 26 m/s.

    Args:
        t: seconds, `(time,)`.
        position: reference positions of the windows, `(windows, time, 2)`.
        reports: their true reports, `(windows, time, 2)`.
        seeds: a track each.

    Returns:
        The tracks, with velocities from differences of the reference.
    """
    truth, ys, bads = [], [], []
    for seed in seeds:
        rng = stream(seed, "decoy")
        window = int(rng.integers(len(position)))
        y, place = reports[window].copy(), position[window]
        blind = rng.uniform(100.0, 200.0)
        first = blind + rng.uniform(40.0, 120.0)
        last = first + rng.uniform(90.0, 200.0)
        y[(t >= blind) & (t < first)] = np.nan
        bad = (t >= first) & (t < last)
        angle, drift = rng.uniform(-np.pi, np.pi, 2)
        aside = rng.uniform(12e3, 40e3) * np.array([np.cos(angle), np.sin(angle)])
        speed = rng.uniform(0.0, 26.0) * np.array([np.cos(drift), np.sin(drift)])
        hover = place[bad][0] + aside + speed * (t[bad] - first)[:, None]
        y[bad] = hover + rng.normal(0.0, 30.0, hover.shape)
        truth.append(np.concatenate([place, np.gradient(place, t, axis=0)], -1))
        ys.append(y)
        bads.append(bad)
    return Scene(t, np.stack(truth), np.stack(ys), np.stack(bads))
