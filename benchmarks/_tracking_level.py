"""A scalar level: simulated order flow, and the logarithm of a market's volume.

Parity is expected: on arrival a burst and a jump of the level cannot be told apart, and
a gate is as good as anything on single spikes.
"""

import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from _bench import Row
from _tracking_common import OURS, rows
from _tracking_ours import filter_level, level_evidence
from _tracking_rules import LEVELS, RULES, Array, Innovation, gaussian
from _tracking_scenes import REPORT, TUNE, stream
from scipy.special import gammaln

STEPS = 2_000
HOLD = 0.995  # how much of the level is left after a step
CASES = ("clean", "spike", "burst", "mixed")
QS = ((0.02,), (0.05,), (0.2,), (0.05, 9.0), (0.02, 4.0))
SKIPPED = ("gate, restart", "PDA", "WoLF-TMD", "NIS-inflate")


def order_flow(case: str, seeds: Sequence[int], steps: int) -> tuple[Array, Array]:
    """Simulate a level that reverts and jumps, and reports of it with faults.

    Args:
        case: one of `CASES`.
        seeds: a series each.
        steps: reports of each.

    Returns:
        Level and reports, `(seeds, steps)`; noise has a deviation of one.
    """
    levels, reports = [], []
    for seed in seeds:
        rng = stream(seed, "flow")
        moves = rng.normal(0.0, 0.2, steps)
        moves += rng.normal(0.0, 2.0, steps) * (rng.random(steps) < 0.003)
        level = np.zeros(steps)
        for k in range(1, steps):
            level[k] = HOLD * level[k - 1] + moves[k]
        y = level + rng.normal(size=steps)
        faults = stream(seed, "flow", "faults")
        spiked = faults.random(steps) < 0.03
        sizes = 10.0 ** faults.uniform(1.0, 4.0, steps) * faults.choice([-1, 1], steps)
        starts = np.linspace(20, steps, 12, endpoint=False).astype(int)
        lengths = faults.integers(10, 31, 12)
        offsets = faults.uniform(6.0, 12.0, 12) * faults.choice([-1.0, 1.0], 12)
        if case in ("burst", "mixed"):
            for start, length, offset in zip(starts, lengths, offsets, strict=True):
                y[start : start + length] += offset
        if case in ("spike", "mixed"):
            y = np.where(spiked, level + sizes, y)
        levels.append(level)
        reports.append(y)
    return np.stack(levels), np.stack(reports)


class Setting(NamedTuple):
    """One setting of a rule.

    Attributes:
        q: variance of a step of each model.
        R: variance of the noise.
        level: of the rule.
    """

    q: tuple[float, ...]
    R: float
    level: float


def student_density(nu: Array, S: Array, degrees: Array) -> Array:
    """Log-density of a Student-t with squared scale `S`."""
    constant = gammaln((degrees + 1) / 2) - gammaln(degrees / 2)
    constant = constant - 0.5 * np.log(degrees * np.pi * S)
    return constant - (degrees + 1) / 2 * np.log1p(nu**2 / S / degrees)


def filtered(
    y: Array, rule: str, settings: Sequence[Setting], hold: float
) -> tuple[Array, Array]:
    """Filter series by settings of one rule, alone or with a second model for jumps.

    Args:
        y: reports, `(series, steps)`.
        rule: one of the rules.
        settings: of it, all alone or all with jumps.
        hold: how much of the level is left after a step.

    Returns:
        Means, and log-densities of the reports given the past, `(settings, series,
        steps)`.
    """
    shape = (len(settings), *y.shape)
    q, R, level = (
        np.repeat(np.array(column, float), len(y), 0)
        for column in zip(*settings, strict=True)
    )
    R, level = R[:, None], level[:, None]
    y = np.tile(y, (len(settings), 1))
    prior = np.array([1.0]) if q.shape[1] == 1 else np.array([0.98, 0.02])
    mean, spread = y[:, :1], R
    noise = np.broadcast_to(R, q.shape)[..., None, None]
    means, logs = [y[:, 0]], [np.zeros(len(y))]
    with np.errstate(all="ignore"):
        for report in y.T[1:]:
            # a jump is independent of the one before: all models start alike
            P = hold**2 * spread + q
            nu = np.broadcast_to(report[:, None] - hold * mean, P.shape)
            S = P + R
            square = nu[:, :1] ** 2
            seen = Innovation(
                nu[..., None],
                S[..., None, None],
                P[..., None, None],
                noise,
                square / (prior * S).sum(1, keepdims=True),
                square / R,
            )
            verdict = RULES[rule](seen, level)
            gain = verdict.share * P / (P + verdict.scale * R)
            x, P = hold * mean + gain * nu, (1 - gain) * P
            tailed = rule.startswith("Student-t")
            log = student_density(nu, S, level) if tailed else gaussian(seen.S, seen.nu)
            logs.append(np.log((prior * np.exp(log)).sum(1) + 1e-300))
            best = verdict.evidence.max(1, keepdims=True)
            mu = prior * np.exp(verdict.evidence - best)
            mu = mu / mu.sum(1, keepdims=True)
            mean = (mu * x).sum(1, keepdims=True)
            spread = (mu * (P + (x - mean) ** 2)).sum(1, keepdims=True)
            means.append(mean[:, 0])
    found = np.stack(means, 1), np.stack(logs, 1)
    return found[0].reshape(shape), found[1].reshape(shape)


def name_of(rule: str, q: tuple[float, ...]) -> str:
    """What tables call a rule."""
    return f"{rule}, with jumps" if len(q) > 1 else rule


def rmse(found: Array, level: Array) -> Array:
    """Median over series of the root mean squared error."""
    error = np.sqrt(((found - level) ** 2).mean(-1))
    return np.median(np.where(np.isfinite(error), error, np.inf), -1)


def chosen(rule: str, jumps: bool, seeds: Sequence[int], steps: int) -> Setting:
    """Tune a rule on all cases together."""
    grid = [
        Setting(q, 1.0, level)
        for q, level in itertools.product(QS, LEVELS[rule])
        if (len(q) > 1) == jumps
    ]
    losses = np.zeros(len(grid))
    for case in CASES:
        level, y = order_flow(case, seeds, steps)
        losses += np.log(rmse(filtered(y, rule, grid, HOLD)[0], level))
    return grid[int(np.argmin(losses))]


def measure(quick: bool) -> Iterator[list[Row]]:
    """Report order flow, then the market.

    Args:
        quick: few steps, seeds and rules.

    Yields:
        The rows of each case.
    """
    steps = 200 if quick else STEPS
    tuning, report = (TUNE[:2], REPORT[:2]) if quick else (TUNE, REPORT)
    names = [rule for rule in RULES if rule not in SKIPPED][: 2 if quick else None]
    pairs = [
        (rule, chosen(rule, j, tuning, steps)) for rule in names for j in (False, True)
    ]
    for case in CASES:
        level, y = order_flow(case, report, steps)
        new = []
        for rule, one in pairs:
            error = rmse(filtered(y, rule, [one], HOLD)[0][0], level)
            new += rows(f"order_flow_{case}", name_of(rule, one.q), {"rmse": error}, {})
        for jumps in (False, True):
            mean, inside = filter_level(jumps, y, level)
            found = {"rmse": rmse(mean, level), "coverage": inside}
            name = OURS + ", with jumps" * jumps
            new += rows(f"order_flow_{case}", name, found, {})
        yield [row | {"seeds": len(report)} for row in new]
    yield market(quick)


DEGREES = {
    "Kalman": (0.0,),
    "Student-t VB": (2.0, 3.0, 5.0, 10.0),
    "Student-t": (2.5, 3.0, 5.0, 10.0),
}
TRAIN = 2_500  # days for choosing settings


def market(quick: bool) -> list[Row]:
    """Predict the logarithm of the volume of the S&P 500 a day ahead."""
    try:
        sp500: Any = importlib.import_module("arch.data.sp500")
    except ImportError:
        note = "not available: install arch"
        return rows("market_level", OURS, {"nll": note}, {})
    volume = sp500.load()["Volume"].to_numpy(float)
    y = np.log(volume)[None, : 400 if quick else None]
    cut = y.shape[1] // 2 if quick else TRAIN
    variances = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    noises = (0.003, 0.01, 0.02, 0.04)
    new = []
    for rule, levels in DEGREES.items():
        grid = itertools.product(variances, noises, levels)
        settings = [Setting((q,), R, level) for q, R, level in grid]
        logs = filtered(y, rule, settings[: 3 if quick else None], 1.0)[1][:, 0]
        new += predictive(rule, -logs[np.argmax(logs[:, 1:cut].mean(1))][cut:])
    ours = itertools.product((1e-3, 3e-3), (0.003, 0.01), (2.5, 5.0))
    choices = list(ours)[: 2 if quick else None]
    logs = level_evidence(y[0], choices)
    return new + predictive(OURS, -logs[np.argmax(logs[:, 1:cut].mean(1))][cut:])


def predictive(method: str, losses: Array) -> list[Row]:
    """Mean of predictive losses, with its standard error."""
    (one,) = rows("market_level", method, {"nll": losses.mean()}, {"nll": "nat"})
    return [one | {"sd": float(f"{losses.std() / np.sqrt(len(losses)):.2g}")}]
