"""What the parts of the HMC benchmark share: runs, their quality, and their rows."""

import importlib.util
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from _bench import Row

R_HAT = 1.01  # a figure counts below it
DRAWS = 500  # per chain, at least 400 for the sake of R-hat
REPEATS = 5
OURS, PYRO, NUMPYRO, NUTPIE = "ours", "Pyro NUTS", "NumPyro NUTS", "nutpie NUTS"
RATE = "min-ESS per processor second"
GRADIENT_RATE = "min-ESS per gradient"

Draws = Mapping[str, np.ndarray]  # site to (chains, draws, *shape)


class Quality(NamedTuple):
    """Smallest bulk ESS and largest R-hat over all scalars."""

    min_ess: float
    r_hat: float


class Run(NamedTuple):
    """One run of a sampler.

    Attributes:
        draws: of the latent sites, in the model's own space.
        seconds: processor and wall seconds by phase: warm-up, compilation, sampling.
        divergences: among the draws.
        about: settings that a reader needs, such as the metric.
        gradients: evaluated in all, warm-up included, where counted.
        failed: why the run says nothing, such as an unfinished warm-up.
    """

    draws: Draws
    seconds: Mapping[str, tuple[float, float]]
    divergences: int
    about: str
    gradients: int | None = None
    failed: str | None = None


def installed(name: str) -> bool:
    """Say whether a peer is there."""
    return importlib.util.find_spec(name) is not None


def quality(draws: Draws) -> Quality:
    """Measure draws by ArviZ: all draws together, the worst scalar.

    Args:
        draws: a single chain is cut in four for R-hat.

    Returns:
        Both; 0 and infinity where they do not exist.
    """
    import arviz as az

    parts = draws
    if len(next(iter(draws.values()))) == 1:
        parts = {name: quarters(value) for name, value in draws.items()}
    r_hats = each(az.rhat, parts)
    if any(map(math.isnan, r_hats)):  # no chain moves; ArviZ would count every draw
        return Quality(0.0, math.inf)
    return Quality(min(each(az.ess, draws)), max(r_hats))


def each(statistic: Callable[[Any], Any], draws: Draws) -> list[float]:
    """Take an ArviZ statistic of all scalars."""
    import arviz as az

    with warnings.catch_warnings():
        # ArviZ takes many short chains for a mistake, and divides by variances of 0
        warnings.filterwarnings("ignore", "More chains", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = statistic(az.convert_to_dataset(dict(draws)))
    return [float(value) for array in found.values() for value in np.ravel(array)]


def quarters(value: np.ndarray) -> np.ndarray:
    """Cut one chain, `(1, draws, ...)`, into four."""
    length = value.shape[1] // 4
    return value[0, : 4 * length].reshape(4, length, *value.shape[2:])


def row(
    case: str, method: str, metric: str, value: float, unit: str, **more: Any
) -> Row:
    """Make a row and print it; numbers that are not finite become `None`."""
    new: Row = {"case": case, "method": method, "metric": metric}
    new |= {"value": rounded(value), "unit": unit}
    new |= {k: rounded(v) if isinstance(v, float) else v for k, v in more.items()}
    spread = f" +- {new['sd']}" if new.get("sd") is not None else ""
    note = f" ({new['note']})" if new.get("note") else ""
    print(f"{case}: {method}: {metric}: {new['value']}{spread}{note}", flush=True)
    return new


def missing(case: str, method: str, metric: str) -> Row:
    """Say that a peer is not there."""
    print(f"{case}: {method}: not installed", flush=True)
    note = "not installed"
    new: Row = {"case": case, "method": method, "metric": metric}
    return new | {"value": None, "unit": "", "note": note}


def rounded(value: float) -> float | None:
    """Keep five digits of a finite number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def rate(run: Run) -> float:
    """Smallest ESS per processor second of the sampling phase."""
    if run.failed:
        return -math.inf
    return quality(run.draws).min_ess / run.seconds["sampling"][0]


def rate_rows(case: str, method: str, runs: Sequence[Run]) -> list[Row]:
    """Turn repetitions of a run into rows: the rate, what it rests on, and the costs.

    Args:
        case: the posterior.
        method: the sampler.
        runs: repetitions; medians are reported.

    Returns:
        The rows. That of the rate carries what ratios are made by; where the runs fail
        their check, the metric's name says so.
    """
    if runs[0].failed:
        return failure_rows(case, method, runs[0])
    found = [quality(run.draws) for run in runs]
    cpu = [run.seconds["sampling"][0] for run in runs]
    wall = [run.seconds["sampling"][1] for run in runs]
    rates = [q.min_ess / s for q, s in zip(found, cpu, strict=True)]
    walls = [q.min_ess / s for q, s in zip(found, wall, strict=True)]
    r_hats = [q.r_hat for q in found]
    label = f"{method}, {runs[0].about}"
    shape = next(iter(runs[0].draws.values())).shape[:2]
    mark = marked(r_hats, [run.divergences for run in runs])
    rows = [
        row(
            case,
            label,
            RATE + f" ({mark})" * bool(mark),
            statistics.median(rates),
            "1/s",
            **spread(rates),
            wall=statistics.median(walls),
            sampler=method,
            about=runs[0].about,
            key=RATE,
            r_hat=statistics.median(r_hats),
            draws=f"{shape[0]} x {shape[1]}",
        ),
        row(case, label, "largest R-hat", statistics.median(r_hats), ""),
    ]
    for phase in runs[0].seconds:
        cpu = [run.seconds[phase][0] for run in runs]
        wall = statistics.median(run.seconds[phase][1] for run in runs)
        value = cpu[0] if phase == "compilation" else statistics.median(cpu)
        extra = {} if phase == "compilation" else spread(cpu)
        if phase == "compilation":  # only the first run pays for it
            wall = runs[0].seconds[phase][1]
        rows.append(row(case, label, phase, value, "s", **extra, wall=wall))
    return rows


def gradient_rows(case: str, method: str, runs: Sequence[Run]) -> list[Row]:
    """Turn runs with counted gradients into rows."""
    found = [quality(run.draws) for run in runs]
    counts = [run.gradients or 0 for run in runs]
    rates = [q.min_ess / n for q, n in zip(found, counts, strict=True)]
    r_hats = [q.r_hat for q in found]
    mark = marked(r_hats, [run.divergences for run in runs])
    shape = next(iter(runs[0].draws.values())).shape[:2]
    label = f"{method}, {runs[0].about}"
    return [
        row(
            case,
            label,
            GRADIENT_RATE + f" ({mark})" * bool(mark),
            statistics.median(rates),
            "",
            **spread(rates),
            sampler=method,
            about=runs[0].about,
            key=GRADIENT_RATE,
            r_hat=statistics.median(r_hats),
            draws=f"{shape[0]} x {shape[1]}",
        ),
        row(case, label, "largest R-hat", statistics.median(r_hats), ""),
        row(case, label, "gradients in all", statistics.median(counts), ""),
    ]


def failure_rows(case: str, method: str, run: Run) -> list[Row]:
    """Say why a run has no figure."""
    new: Row = {"case": case, "method": f"{method}, {run.about}", "metric": RATE}
    print(f"{case}: {new['method']}: {run.failed}", flush=True)
    return [new | {"value": None, "unit": "1/s", "note": run.failed}]


def marked(r_hats: Sequence[float], divergences: Sequence[int]) -> str:
    """Say what is wrong with a set of runs, nothing where nothing is."""
    words = []
    largest = statistics.median(r_hats)
    if not largest < R_HAT:
        words.append(f"R-hat {largest:.3f}")
    if count := statistics.median(divergences):
        words.append(f"{count:.0f} divergences")
    return ", ".join(words)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Count repetitions and give their spread, if there is one."""
    more: dict[str, Any] = {"seeds": len(values)}
    if len(values) > 1:
        more["sd"] = statistics.stdev(values)
    return more
