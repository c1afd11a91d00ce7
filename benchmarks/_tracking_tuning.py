"""Choose the settings of robust rules on the tuning split, all settings at once."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from _tracking_bank import Sensor, Setting, Track, run
from _tracking_rules import LEVELS, PATIENCE, Array, Flags, quadratic

Motion = tuple[float, ...]
COVERED = 5.991  # 95 % of a chi-square of two degrees


class Domain(NamedTuple):
    """What the settings of a rule are chosen among.

    Attributes:
        sensor: how reports come from positions.
        sigmas: deviations of the noise to choose among, each `(2,)`.
        alone: intensities of the acceleration of one model of motion.
        imm: the same for several models.
    """

    sensor: Sensor
    sigmas: Sequence[Array]
    alone: Sequence[Motion]
    imm: Sequence[Motion]


class Choice(NamedTuple):
    """One setting of one rule."""

    rule: str
    q: Motion
    level: float
    patience: float
    sigma: Array

    @property
    def name(self) -> str:
        """What tables call it."""
        inside = len(self.q) > 1
        if self.rule == "Kalman":
            return "IMM" if inside else "EKF"
        return f"IMM + {self.rule}" if inside else self.rule


class Batch(NamedTuple):
    """Tracks of one case.

    Attributes:
        t: seconds, `(time,)` or `(tracks, time)`.
        y: reports, `(tracks, time, 2)`.
        truth: positions, `(tracks, time, 2)`.
        scored: where errors count, or with which weight, `(tracks, time)`.
    """

    t: Array
    y: Array
    truth: Array
    scored: Flags | Array


class Score(NamedTuple):
    """Errors of tracks.

    Attributes:
        square: mean squared error of the position, `(tracks,)`.
        covered: share of the 95 % ellipses that hold the truth, `(tracks,)`.
    """

    square: Array
    covered: Array


Loss = Callable[[Mapping[str, Array]], float]


def choices(rule: str, domain: Domain, imm: bool) -> list[Choice]:
    """List all settings of a rule, alone or inside an IMM."""
    grid = itertools.product(
        domain.imm if imm else domain.alone,
        LEVELS[rule],
        PATIENCE.get(rule, (np.inf,)),
        domain.sigmas,
    )
    return [Choice(rule, *parts) for parts in grid]


def lanes(chosen: Sequence[Choice], tracks: int) -> Setting:
    """Give every choice so many lanes."""
    return Setting(
        *(
            np.repeat(np.array([getattr(c, name) for c in chosen], float), tracks, 0)
            for name in Setting._fields
        )
    )


def score(track: Track, truth: Array, scored: Flags | Array) -> Score:
    """Hold tracks against the truth; what is not finite is infinitely wrong."""
    with np.errstate(all="ignore"):
        error = track.mean - truth
        square = (error**2).sum(-1)
        square = np.where(np.isfinite(square), square, np.inf)
        covered = quadratic(track.cov, error) < COVERED
        count = scored.sum(-1)
        square = np.where(scored > 0, scored * square, 0.0).sum(-1) / count
        return Score(square, (covered * scored).sum(-1) / count)


def filtered(chosen: Sequence[Choice], batch: Batch, sensor: Sensor) -> Track:
    """Run all choices, which share a rule, on the tracks of one case.

    Returns:
        Tracks with the choices as first axis.
    """
    tracks, times = batch.y.shape[:2]
    many = len(chosen)
    t = np.broadcast_to(batch.t, (tracks, times))
    track = run(
        np.tile(batch.y, (many, 1, 1)),
        np.tile(t, (many, 1)),
        sensor,
        chosen[0].rule,
        lanes(chosen, tracks),
    )
    return Track(*(a.reshape(many, tracks, *a.shape[1:]) for a in track))


def scores(chosen: Sequence[Choice], batch: Batch, sensor: Sensor) -> Score:
    """Score all choices on the tracks of one case: `(choices, tracks)`."""
    return score(filtered(chosen, batch, sensor), batch.truth, batch.scored)


def tune(
    rule: str, imm: bool, domain: Domain, cases: Mapping[str, Batch], loss: Loss
) -> tuple[Choice, dict[str, Choice]]:
    """Find the best setting of a rule on the tuning split.

    Args:
        rule: one of the rules.
        imm: whether it stands inside an IMM.
        domain: what to choose among.
        cases: tracks for tuning, by case.
        loss: of the mean squared errors of tracks, by case.

    Returns:
        The setting for all cases together, and that for each case alone.
    """
    grid = choices(rule, domain, imm)
    found = {case: scores(grid, b, domain.sensor).square for case, b in cases.items()}

    def best(names: Sequence[str]) -> Choice:
        losses = [loss({c: found[c][i] for c in names}) for i in range(len(grid))]
        return grid[int(np.argmin(losses))]

    return best(list(cases)), {case: best([case]) for case in cases}
