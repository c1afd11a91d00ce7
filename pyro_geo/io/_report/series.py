"""The part of a report about the steps of a filter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.beliefs import beliefs, cohort, labels_of
from pyro_geo.io._report.stats import flag_table, quantile_table
from pyro_geo.io._report.tracks import Line, over_time, plane, shares

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["add_series"]

_PICTURED = 3  # series
_STATES = 6
_MOST = 1e9  # nats of one report that count when series are ordered
_POINTS = 2_000  # of a line; more than a picture has pixels


def add_series(
    page: html.Page,
    filtered: "xr.Dataset",
    stats: "xr.Dataset | None",
    reports: "xr.Dataset | None",
    series_name: str,
) -> None:
    """Add pictures of the states over time, and tables of the statistics.

    Series with the most nats severed come first, where the filter has such.

    Args:
        page: the page to add to.
        filtered: `mean` and `cov`, leading axes series and time.
        stats: statistics of the steps.
        reports: `y`, with the axis `channel`, and `place` where reports are no
            positions but stand for them.
        series_name: what a series is called.
    """
    axes = filtered["mean"].dims
    count, steps = filtered["mean"].shape[:2]
    page.card(f"{series_name}s", count)
    page.card("steps of each", steps)
    if not steps:
        page.notes.append("There are no steps in this run.")
        return
    step = -(-steps // _POINTS)
    if stats is not None:
        every = {axes[1]: slice(None, None, step)}
        page.add("Cohort", *cohort(filtered.isel(every), stats.isel(every)))
    order = _order(stats, count)
    for row in order[:_PICTURED]:
        at = {axes[0]: int(row), axes[1]: slice(None, None, step)}
        part = filtered.isel(at)
        own = None if stats is None else stats.isel(at)
        seen = None if reports is None else reports.isel(at)
        label = part["mean"].coords[axes[0]].item()
        cut = f" Every {step}. step is shown." if step > 1 else ""
        page.add(
            f"{series_name.capitalize()} {label}",
            html.paragraph(cut.strip(), cut=True) if cut else "",
            _map(part, own, seen),
            _states(part, seen),
            *([] if own is None else beliefs(own, _times(part, seen), seen)),
            *([] if own is None else _probabilities(own, _times(part, seen))),
            "" if own is None else _nats(own, _times(part, seen)),
        )
    if stats is not None:
        _statistics(page, stats)


def _order(stats: "xr.Dataset | None", count: int) -> np.ndarray:
    if stats is None or "severed" not in stats:
        return np.arange(count)
    nats = np.nan_to_num(np.asarray(stats["severed"].values, dtype=float))
    return np.argsort(-nats.clip(0, _MOST).sum(1), kind="stable")


def _times(part: "xr.Dataset", seen: "xr.Dataset | None") -> np.ndarray:
    """Times of the steps: of this series, else those that all have."""
    if seen is not None and "t" in seen:
        return np.asarray(seen["t"].values, dtype=float)
    times = np.asarray(part[str(part["mean"].dims[0])].values)
    numbers = np.issubdtype(times.dtype, np.number)
    return times.astype(float) if numbers else np.arange(len(times), dtype=float)


def _moments(part: "xr.Dataset") -> tuple[list[str], np.ndarray, np.ndarray]:
    names = _names(part)
    mean = np.asarray(part["mean"].values, dtype=float)
    return names, mean, np.asarray(part["cov"].values, dtype=float)


def _names(part: "xr.Dataset") -> list[str]:
    """Names of the components of the state; a number alone needs the axis's name."""
    mean = part["mean"]
    if mean.dims[-1] == "state":
        return [str(label) for label in mean["state"].values]
    return labels_of(mean)


def _refused(own: "xr.Dataset | None", steps: int) -> np.ndarray:
    if own is None or "p_nominal" not in own:
        return np.zeros(steps, dtype=bool)
    return np.nan_to_num(np.asarray(own["p_nominal"].values), nan=1.0) < 0.5


def _map(
    part: "xr.Dataset", own: "xr.Dataset | None", seen: "xr.Dataset | None"
) -> str:
    """Picture the path in the plane of the position, if it has two axes."""
    axes = str(part.attrs.get("plane", "")).split()
    names, mean, cov = _moments(part)
    if len(axes) != 2 or not set(axes) <= set(names):
        return ""
    place = [names.index(axis) for axis in axes]
    mean, cov = mean[:, place], cov[:, place][:, :, place]
    dots = _places(axes, seen)
    points = (
        np.stack([dots[axis] for axis in axes], 1) if set(axes) <= set(dots) else None
    )
    refused = _refused(own, len(mean))
    png = plane(mean, cov, points, refused, (axes[0], axes[1]))
    ends = mean[np.isfinite(mean).all(1)]
    alt = (
        "No place is known."
        if not len(ends)
        else (
            f"Path from ({ends[0, 0]:.4g}, {ends[0, 1]:.4g}) to "
            f"({ends[-1, 0]:.4g}, {ends[-1, 1]:.4g})."
        )
    )
    shown = "" if points is None else " Dots are reports, crosses those refused."
    caption = f"The path, with ellipses of 95 % probability.{shown}"
    return html.figure(png, alt, caption)


def _places(axes: Sequence[str], seen: "xr.Dataset | None") -> dict[str, np.ndarray]:
    """Reports of components of the state, or what they say of the position."""
    if seen is None:
        return {}
    if "place" in seen:
        return dict(zip(axes, np.asarray(seen["place"].values, float).T, strict=True))
    names = [str(channel) for channel in seen["channel"].values]
    return dict(zip(names, np.asarray(seen["y"].values, float).T, strict=True))


def _states(part: "xr.Dataset", seen: "xr.Dataset | None") -> str:
    """Picture components of the state over time."""
    names, mean, cov = _moments(part)
    times, lines = _times(part, seen), []
    seen_of = _places(str(part.attrs.get("plane", "")).split(), seen)
    for k, name in enumerate(names[:_STATES]):
        width = 1.96 * np.sqrt(np.maximum(cov[:, k, k], 0))
        low, high = mean[:, k] - width, mean[:, k] + width
        lines.append(Line(name, mean[:, k], low, high, seen_of.get(name)))
    left = len(names) - len(lines)
    more = f" {left} further components are not shown." if left else ""
    alt = ", ".join(f"{line.name} ends at {line.centre[-1]:.4g}" for line in lines)
    caption = f"The state over time, with intervals of 95 % probability.{more}"
    return html.figure(over_time(times, lines), f"State over time: {alt}.", caption)


def _probabilities(own: "xr.Dataset", times: np.ndarray) -> list[str]:
    """Picture the statistics that are probabilities of something."""
    figures = []
    for name, array in own.data_vars.items():
        kind = str(name).rpartition("_")[2]
        if kind != "prob" or array.ndim != 2 or array.shape[1] < 2:
            continue
        axis = array.dims[1]
        labels = [str(label) for label in array[axis].values]
        values = np.nan_to_num(np.asarray(array.values, dtype=float))
        mean = ", ".join(
            f"{label} {value:.0%}"
            for label, value in zip(labels, values.mean(0), strict=True)
        )
        png = shares(times, values, labels)
        caption = f"Probability of each of: {axis}."
        figures.append(html.figure(png, f"On average {mean}.", caption))
    return figures


def _nats(own: "xr.Dataset", times: np.ndarray) -> str:
    """Picture what each report has cost."""
    if "severed" not in own:
        return ""
    nats = np.asarray(own["severed"].values, dtype=float)
    total = float(np.nansum(nats.clip(0)))
    png = over_time(times, [Line("nats severed", nats)])
    caption = (
        "Nats that each report has cost the nominal sensor; below zero it spoke for it."
    )
    return html.figure(png, f"{total:.4g} nats severed in all.", caption)


def _statistics(page: html.Page, stats: "xr.Dataset") -> None:
    arrays = {str(k): np.asarray(v.values) for k, v in stats.data_vars.items()}
    flags = {k: v for k, v in arrays.items() if v.dtype == bool}
    numbers = {k: v.astype(float) for k, v in arrays.items() if k not in flags}
    table = flag_table(flags).rename(columns={"draws with it": "steps with it"})
    page.add(
        "Statistics",
        html.table(quantile_table(numbers), "Statistics of the steps, quantiles"),
        html.table(table, "Flags of the steps") if flags else "",
    )
