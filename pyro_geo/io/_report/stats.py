"""The part of a report about the run's statistics."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.components import finite
from pyro_geo.io._report.losses import is_flag
from pyro_geo.io._report.pictures import histograms, stages

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["add_stats", "energy_fractions", "flag_table", "quantile_table"]

_PANELS = 12
_BFMI_LIMIT = 0.3  # below it Stan warns too
_STAGES = ("loss_anchor", "loss_explored", "loss_settled", "loss")
# Drawn in this order, then the rest as they come.
_FIRST = (
    *("lp", "loss", "energy", "energy_error", "acceptance_rate", "displacement"),
    *("path_length", "grad_norm", "kinetic", "n_steps", "n_evals", "step_size"),
)


def add_stats(page: html.Page, stats: "xr.Dataset") -> None:
    """Add pictures and tables of the statistics.

    Args:
        page: the page to add to.
        stats: the group `sample_stats`, at least one draw.
    """
    arrays = {str(k): np.asarray(v.values) for k, v in stats.data_vars.items()}
    flags = {k: v.astype(bool) for k, v in arrays.items() if is_flag(k, v)}
    numbers = {
        k: v.astype(float)
        for k, v in arrays.items()
        if k not in flags and np.issubdtype(v.dtype, np.number)
    }
    _judge_energies(page, numbers)
    page.add(
        "Statistics",
        _stage_figure(numbers),
        _histogram_figure(numbers),
        html.table(quantile_table(numbers), "Statistics of the draws, quantiles")
        if numbers
        else "",
        html.table(flag_table(flags), "Flags of the draws") if flags else "",
    )


def _judge_energies(page: html.Page, numbers: Mapping[str, np.ndarray]) -> None:
    """Show acceptance and energy fraction of Hamiltonian Monte Carlo."""
    if "acceptance_rate" not in numbers:
        return  # energies of other kernels are not those of Hamiltonian Monte Carlo
    for name in ("acceptance_rate", "step_size"):
        if name in numbers and (known := numbers[name][finite(numbers[name])]).size:
            page.card(f"mean {name.replace('_', ' ')}", float(known.mean()))
    if "energy" not in numbers:
        return
    fraction = energy_fractions(numbers["energy"])
    if np.isnan(fraction).all():
        return
    bad = int((fraction < _BFMI_LIMIT).sum())
    page.card("smallest E-BFMI", round(float(np.nanmin(fraction)), 2), alert=bad > 0)
    if bad:
        page.notes.append(
            f"E-BFMI is below {_BFMI_LIMIT} for {bad:,} of {len(fraction):,} chains: "
            "they move slowly between the energies of the posterior, so its tails "
            "may be missing. A heavy tail or a funnel does that; reparametrise it."
        )


def energy_fractions(energy: np.ndarray) -> np.ndarray:
    r"""Compare steps in energy with its spread: `\sum (E_n - E_{n-1})^2 / \sum E^2`.

    Energies in the denominator are taken about their chain's mean.

    Args:
        energy: energy of each transition, `(chains, draws)`.

    Returns:
        The energy Bayesian fraction of missing information of each chain,
        `(chains,)`; NaN where energies are constant or not finite.

    References:
        Betancourt (2016), Diagnosing suboptimal cotangent disintegrations in
        Hamiltonian Monte Carlo, arXiv:1604.00695.

    Example:
        >>> energy = np.random.default_rng(0).normal(size=(1, 1000))
        >>> slow = energy.cumsum(axis=1)
        >>> (energy_fractions(np.concatenate([energy, slow])) > 0.3).tolist()
        [True, False]
    """
    energy = np.asarray(energy, dtype=float)
    with np.errstate(all="ignore"):
        spread = ((energy - energy.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        steps = (np.diff(energy, axis=1) ** 2).sum(axis=1)
        return np.where(spread > 0, steps / spread, np.nan)


def _stage_figure(numbers: Mapping[str, np.ndarray]) -> str:
    """Picture the loss through the stages of a trajectory."""
    losses = {name: numbers[name] for name in _STAGES if name in numbers}
    if len(losses) < 2 or len({v.shape for v in losses.values()}) > 1:
        return ""
    known = [v[finite(v)] for v in losses.values()]
    alt = ", ".join(
        f"{name} median {np.median(v):.4g}" if v.size else f"{name} not finite"
        for name, v in zip(losses, known, strict=True)
    )
    return html.figure(
        stages(losses),
        f"Loss through the stages: {alt}.",
        "Loss of each draw at the anchor and at the end of each stage.",
    )


def _histogram_figure(numbers: Mapping[str, np.ndarray]) -> str:
    """Picture the statistics that vary."""
    varying = {k: v for k, v in numbers.items() if _varies(v)}
    order = [name for name in _FIRST if name in varying]
    order += [name for name in varying if name not in _FIRST and name not in _STAGES]
    shown = {name: varying[name] for name in order[:_PANELS]}
    if not shown:
        return ""
    left = len(numbers) - len(shown)
    more = (
        f" {left} others, constant ones among them, are in the table." if left else ""
    )
    alt = ", ".join(
        f"{k} median {np.median(v[finite(v)]):.3g}" for k, v in shown.items()
    )
    return html.figure(
        histograms(shown),
        f"Histograms of statistics: {alt}.",
        f"Statistics of the draws, all together.{more}",
    )


def _varies(values: np.ndarray) -> bool:
    """Say whether there is more than one value to draw."""
    usable = values[finite(values)]
    return bool(usable.size) and bool(usable.min() < usable.max())


def quantile_table(numbers: Mapping[str, np.ndarray]) -> "pd.DataFrame":
    """Tabulate quantiles of each statistic over its finite values.

    Args:
        numbers: name to values of any shape.

    Returns:
        One row per statistic.
    """
    import pandas as pd

    rows = {}
    for name, values in numbers.items():
        usable = values[np.isfinite(values)]
        levels = np.quantile(usable, [0, 0.05, 0.5, 0.95, 1]) if usable.size else None
        quantiles = [math.nan] * 5 if levels is None else levels.tolist()
        names = ("smallest", "5 %", "median", "95 %", "largest")
        rows[name] = {
            **dict(zip(names, quantiles, strict=True)),
            "not finite": int(values.size - usable.size),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def flag_table(flags: Mapping[str, np.ndarray]) -> "pd.DataFrame":
    """Tabulate how many draws carry each flag.

    Args:
        flags: name to booleans of any shape.

    Returns:
        One row per flag.
    """
    import pandas as pd

    rows = {
        name: {
            "draws with it": int(values.sum()),
            "of": values.size,
            "share": float(values.mean()),
        }
        for name, values in flags.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
