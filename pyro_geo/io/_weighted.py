"""The summary table of draws with weights, with the columns of ArviZ's."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_geo._compat.arviz import (
    get_group,
    import_arviz,
    major_version,
    pareto_k,
    quiet,
)
from pyro_geo.io._report.components import columns, component_name
from pyro_geo.io.names import PARTICLE_DIMS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from pyro_geo._compat.arviz import ArvizData

__all__ = ["arviz_table", "has_weights", "tabulated_group", "weighted_table"]

_TAIL = 0.05


def arviz_table(posterior: "xr.Dataset", interval: float) -> "pd.DataFrame":
    """Tabulate draws of equal weight by ArviZ, in full precision and in silence.

    Args:
        posterior: leading axes chain and draw.
        interval: probability of the interval.

    Returns:
        ArviZ's summary.
    """
    level = "ci_prob" if major_version() >= 1 else "hdi_prob"
    options: dict[str, Any] = {"round_to": "none", level: interval}
    with quiet():
        return import_arviz().summary(posterior, **options)


def tabulated_group(idata: "ArvizData") -> "xr.Dataset | None":
    """The draws that a table is made of: the particles where there are weights.

    Args:
        idata: ArviZ data.

    Returns:
        The group; None where there are no draws.
    """
    particles = get_group(idata, "particles")
    return get_group(idata, "posterior") if particles is None else particles


def has_weights(draws: "xr.Dataset") -> bool:
    """Say whether a group is one of particles with weights."""
    log_weights = draws.get("log_weights")
    return log_weights is not None and log_weights.dims[:1] == PARTICLE_DIMS[:1]


def weighted_table(
    particles: "xr.Dataset", var_names: Sequence[str] | None, interval: float
) -> "pd.DataFrame":
    """Tabulate draws with weights.

    Args:
        particles: sites `(particles, draws, *shape)` and their `log_weights`.
        var_names: the sites to tabulate; all if None.
        interval: probability of the interval.

    Returns:
        One row per component, with ArviZ's columns and `khat`.
    """
    import pandas as pd

    weights = _normalised(particles["log_weights"].values)
    if var_names is None:
        var_names = [str(n) for n in particles.data_vars if n != "log_weights"]
    names = _column_names(interval)
    of_each = weights.sum(1)  # draws of one particle depend on each other
    khat = pareto_k(np.log(of_each[of_each > 0]))
    labels, rows = [], []
    for name in var_names:
        array = particles[name]
        for column, values in enumerate(np.moveaxis(columns(array), -1, 0)):
            labels.append(component_name(array, column))
            rows.append([*_statistics(values, weights, names, interval), khat])
    return pd.DataFrame(rows, index=labels, columns=[*names, "khat"], dtype=float)


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


@functools.cache
def _column_names(interval: float) -> list[str]:
    """What the installed ArviZ calls the columns of a summary."""
    import xarray as xr

    draws = np.linspace(0.0, 1.0, 32).reshape(4, 8)
    sample = xr.Dataset({"x": (("chain", "draw"), draws)})
    return [str(name) for name in arviz_table(sample, interval).columns]


def _statistics(
    x: np.ndarray, weights: np.ndarray, names: Sequence[str], interval: float
) -> list[float]:
    """Entries of one row in the order of its columns."""
    alive = weights > 0  # a particle without weight may be anywhere, NaN too
    values, shares = x[alive], weights[alive]
    mean = float(shares @ values)
    centred = np.where(alive, x - mean, 0.0)
    variance = float(shares @ (values - mean) ** 2)
    # as for n equal weights, where it is n / (n - 1)
    single = float((shares**2).sum())
    sd = math.sqrt(variance / (1 - single)) if single < 1 else math.nan
    # delta method: sd(s) = sd(s^2) / (2 s)
    spread = _error(weights, np.where(alive, centred**2 - variance, 0.0))
    highest = any(name.startswith("hdi") for name in names)
    ends = _interval(values, shares, interval, highest=highest)
    entries = {
        "mean": mean,
        "sd": sd,
        "mcse_mean": _error(weights, centred),
        "mcse_sd": spread / (2 * sd) if sd > 0 else math.nan,
        "ess_bulk": 1 / float((weights.sum(1) ** 2).sum()),
        "ess_tail": _tail_size(x, weights, alive),
        "r_hat": math.nan,
    }
    low_high = iter(ends)  # the two columns that ArviZ names after the probability
    return [entries[name] if name in entries else next(low_high) for name in names]


def _error(weights: np.ndarray, centred: np.ndarray) -> float:
    """Monte Carlo error of a weighted mean; the draws of a particle are dependent."""
    return float(np.sqrt((((weights * centred).sum(1)) ** 2).sum()))


def _interval(
    values: np.ndarray, shares: np.ndarray, interval: float, *, highest: bool
) -> tuple[float, float]:
    """The shortest interval of a probability, or the one between two quantiles."""
    order = np.argsort(values)
    values, below = values[order], np.cumsum(shares[order])
    below = below / below[-1]
    if not highest:
        tail = (1 - interval) / 2
        low, high = np.searchsorted(below, [tail, 1 - tail])
        return float(values[low]), float(values[high])
    start = below - shares[order]  # probability before each draw
    stop = np.searchsorted(below, start + interval * (1 - 1e-12))
    inside = stop < len(values)
    widths = np.full(len(values), np.inf)
    widths[inside] = values[stop[inside]] - values[inside]
    first = int(np.argmin(widths))
    return float(values[first]), float(values[stop[first]])


def _tail_size(x: np.ndarray, weights: np.ndarray, alive: np.ndarray) -> float:
    # With p the weight of the draws in a tail, p (1 - p) over the squared Monte Carlo
    # error of p: so many draws of equal weight would have that error.
    values, shares = x[alive], weights[alive]
    order = np.argsort(values)
    places = np.searchsorted(np.cumsum(shares[order]), [_TAIL, 1 - _TAIL])
    low, high = values[order][places.clip(max=len(values) - 1)]
    sizes = []
    for inside in (alive & (x <= low), alive & (x >= high)):
        p = float(weights[inside].sum())
        error = _error(weights, np.where(alive, inside - p, 0.0))
        sizes.append(p * (1 - p) / error**2 if p < 1 and error > 0 else math.nan)
    return float(np.min(sizes))
