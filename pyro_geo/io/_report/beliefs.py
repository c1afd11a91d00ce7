"""Pictures of what a hierarchical filter believes: predictions, learning rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.tracks import Line, over_time

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["beliefs", "cohort", "labels_of"]

_RATE, _PREDICTION = "learning_rate", "prediction"
_LEVELS = 6
_LEAST = 3  # series of a cohort that is worth a picture of its own


def beliefs(
    own: "xr.Dataset", times: np.ndarray, seen: "xr.Dataset | None"
) -> list[str]:
    """Picture the prediction beside the input, and the learning rates of all levels.

    Args:
        own: statistics of one series.
        times: of its steps.
        seen: its inputs.

    Returns:
        Figures; none for a filter that has no such statistics.
    """
    figures = []
    if _PREDICTION in own and own[_PREDICTION].ndim == 1:
        line = _line(own, _PREDICTION, _PREDICTION, ())
        if seen is not None and "y" in seen:
            line = line._replace(dots=np.asarray(seen["y"].values, dtype=float)[:, 0])
        png = over_time(times, [line])
        alt = f"The last prediction is {line.centre[-1]:.4g}."
        figures.append(html.figure(png, alt, "Prediction of each input. Dots: inputs."))
    if _RATE in own and own[_RATE].ndim == 2:
        labels = labels_of(own[_RATE])
        lines = [
            _line(own, _RATE, f"rate, {label}", (slice(None), k))
            for k, label in enumerate(labels[:_LEVELS])
        ]
        bands = f"low_{_RATE}" in own
        caption = "Learning rate of each level." + (
            " Bands: posterior draws of the parameters." if bands else ""
        )
        png = over_time(times, lines)
        alt = ", ".join(
            f"{line.name} {np.nanmean(line.centre):.4g} on average" for line in lines
        )
        figures.append(html.figure(png, f"{alt}.", caption))
    return figures


def cohort(filtered: "xr.Dataset", stats: "xr.Dataset") -> list[str]:
    """Picture means over many series of the levels above the first and of the rates.

    Args:
        filtered: `mean`, leading axes series and time.
        stats: statistics of the steps.

    Returns:
        A figure; none for a filter without learning rates, or for few series.
    """
    if _RATE not in stats or filtered["mean"].shape[0] < _LEAST:
        return []
    mean = np.asarray(filtered["mean"].values, dtype=float)
    rate = np.asarray(stats[_RATE].values, dtype=float)
    labels = labels_of(filtered["mean"])[:_LEVELS]
    lines = [
        _spread(mean[..., k], label)
        for k, label in enumerate(labels)
        if k > 0 or len(labels) == 1
    ]
    lines += [_spread(rate[..., k], f"rate, {label}") for k, label in enumerate(labels)]
    times = np.arange(mean.shape[1], dtype=float)
    caption = (
        f"Median over {len(mean):,} series of the levels above the first and of the "
        "learning rates. Bands hold 80 % of the series."
    )
    alt = ", ".join(f"{line.name} ends at {line.centre[-1]:.4g}" for line in lines)
    return [html.figure(over_time(times, lines), f"{alt}.", caption)]


def labels_of(array: "xr.DataArray") -> list[str]:
    """Label the last axis of an array.

    Args:
        array: with coordinates of that axis.

    Returns:
        The labels; a number comes after the name of the axis.
    """
    axis = array.dims[-1]
    return [
        f"{axis} {label}" if np.issubdtype(type(label), np.number) else str(label)
        for label in array[axis].values
    ]


def _line(own: "xr.Dataset", name: str, label: str, at: Sequence[object]) -> Line:
    def values(part: str) -> np.ndarray | None:
        if part not in own:
            return None
        return np.asarray(own[part].values, dtype=float)[tuple(at)]  # type: ignore[index]

    centre = values(name)
    assert centre is not None
    return Line(label, centre, values(f"low_{name}"), values(f"high_{name}"))


def _spread(values: np.ndarray, name: str) -> Line:
    """Median and central 80 % over series."""
    low, centre, high = np.nanquantile(values, [0.1, 0.5, 0.9], axis=0)
    return Line(name, centre, low, high)
