"""Recorded reports of aircraft whose sensors lied, read through `PYRO_GEO_DATA`.

The variable names the folder of `stuck.npz`, `spoofed.npz` and `cruise.npz`, which are
not bundled. Without it the benchmark says "not available" and measures the rest.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _tracking_scenes import Scene, decoys
from _tracking_tuning import Array, Batch, Flags
from numpy.typing import NDArray

VARIABLE = "PYRO_GEO_DATA"
DECEIVED = (3625, 6825)  # seconds of the last true report, and of the next one
FALSE = (4799, 6199)  # seconds of the first and of the last fresh false report


class Stuck(NamedTuple):
    """Windows in which the receiving network repeated old positions.

    Attributes:
        batch: reports padded with NaN; scored are the bursts.
        bad: reports that are false, `(windows, time)`.
        burst: number of the burst that a report is in, -1 for none, `(windows, time)`.
    """

    batch: Batch
    bad: Flags
    burst: NDArray[np.int64]


class Spoofed(NamedTuple):
    """A flight whose satellite receiver was deceived.

    Attributes:
        t: seconds, `(time,)`.
        y: reported positions, `(time, 2)`.
        truth: true positions; a straight line in the gap, `(time, 2)`.
        false: the fresh false reports, `(time,)`.
        gap: reports in which nothing is true, `(time,)`.
    """

    t: Array
    y: Array
    truth: Array
    false: Flags
    gap: Flags


def available(name: str) -> Path | None:
    """Find a recording, if there is one."""
    folder = os.environ.get(VARIABLE)
    path = Path(folder) / f"{name}.npz" if folder else None
    return path if path is not None and path.exists() else None


def repeats(y: Array) -> Flags:
    """Mark reports that equal the one before, `(*batch, time)`."""
    same = (y[..., 1:, :] == y[..., :-1, :]).all(-1)
    return np.concatenate([np.zeros_like(same[..., :1]), same], -1)


def stuck(path: Path, tune: bool) -> Stuck:
    """Read the windows of one split.

    Args:
        path: of the recording.
        tune: whether to read those for choosing settings.

    Returns:
        The windows, padded to the longest.
    """
    data = {name: value for name, value in np.load(path).items()}
    wanted = np.flatnonzero(data["tune"] == tune)
    rows = [np.flatnonzero(data["track"] == k) for k in wanted]
    shape = (len(wanted), max(map(len, rows)))
    y, truth = np.full((*shape, 2), np.nan), np.zeros((*shape, 2))
    t = np.zeros(shape)
    bad, scored = np.zeros(shape, bool), np.zeros(shape, bool)
    number = np.full(shape, -1)
    for i, row in enumerate(rows):
        n = len(row)
        steps = np.stack([data["ref_x_step"][row], data["ref_y_step"][row]], -1)
        truth[i, :n] = np.cumsum(steps.astype(float), 0)
        y[i, :n] = truth[i, :n] + np.stack([data["dx"][row], data["dy"][row]], -1)
        t[i, :n] = data["t"][row]
        t[i, n:] = t[i, n - 1] + np.arange(1, shape[1] - n + 1)
        bad[i, :n], scored[i, :n] = ~data["good"][row], data["burst"][row]
        first = scored[i, :n] & ~np.concatenate([[False], scored[i, : n - 1]])
        number[i, :n] = np.where(scored[i, :n], np.cumsum(first) - 1 + 100 * i, -1)
    return Stuck(Batch(t, y, truth, scored), bad, number)


def spoofed(path: Path) -> Spoofed:
    """Read the flight, and draw the line that is true in the gap."""
    data = np.load(path)
    t = data["t"].astype(float)
    y = np.stack([data["x"], data["y"]], -1).astype(float)
    gap = (t > DECEIVED[0]) & (t < DECEIVED[1])
    ends = [int(np.flatnonzero(t == s)[0]) for s in DECEIVED]
    share = ((t - DECEIVED[0]) / (DECEIVED[1] - DECEIVED[0]))[:, None]
    line = y[ends[0]] + share * (y[ends[1]] - y[ends[0]])
    false = (t >= FALSE[0]) & (t <= FALSE[1]) & ~repeats(y)
    return Spoofed(t, y, np.where(gap[:, None], line, y), false, gap)


def cruise(path: Path, seeds: range) -> Scene:
    """Read the clean windows and put decoys into them."""
    data = {name: value.astype(float) for name, value in np.load(path).items()}
    true = np.stack([data["ref_x"], data["ref_y"]], -1)
    reports = np.stack([data["x"], data["y"]], -1)
    return decoys(data["t"][0], true, reports, seeds)
