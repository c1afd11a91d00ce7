"""Pictures of states over time: paths, bands and probabilities."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyro_geo.io._report.components import finite
from pyro_geo.io._report.style import (
    COLOURS,
    GREY,
    INK,
    PALE,
    RED,
    draw,
    legend,
    no_values,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Line", "over_time", "plane", "shares"]

_ELLIPSES = 25
_CHI2 = 5.991  # 95 % of the chi-squared distribution with two degrees of freedom


class Line(NamedTuple):
    """One number over time.

    Attributes:
        name: of it.
        centre: its value, `(time,)`.
        low: lower end of an interval, if it has one.
        high: upper end.
        dots: reports of it, if there are any.
    """

    name: str
    centre: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dots: np.ndarray | None = None


def plane(
    mean: np.ndarray,
    cov: np.ndarray,
    reports: np.ndarray | None,
    refused: np.ndarray,
    labels: tuple[str, str],
) -> bytes:
    """Draw a path in the plane with ellipses and reports.

    Reports that are far outside of the path are left out: one may be a million away.

    Args:
        mean: places, `(time, 2)`; NaN where none is known.
        cov: their covariances, `(time, 2, 2)`.
        reports: `(time, 2)`, if they are places.
        refused: which of them were refused, `(time,)`.
        labels: names of the axes.

    Returns:
        A PNG.
    """
    known = finite(mean).all(1) & finite(cov).all((1, 2))
    rows = np.flatnonzero(known)

    def paint(figure: "Figure") -> None:
        from matplotlib.collections import PolyCollection

        ax = figure.subplots()
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        if not len(rows):
            no_values(ax, "no place is known")
            return
        some = rows[:: max(1, len(rows) // _ELLIPSES)]
        outlines = [mean[row] + _ellipse(cov[row]) for row in some]
        ax.add_collection(
            PolyCollection(outlines, facecolors=PALE, alpha=0.3, linewidths=0)
        )
        ax.plot(*mean.T, color=INK, linewidth=1.3, label="mean")
        ax.plot(*mean[rows[0]], "o", color=INK, markersize=4)
        points = np.concatenate([mean[rows], *outlines])
        low, high = points.min(0), points.max(0)
        margin = 0.15 * max(float((high - low).max()), 1e-12)
        if reports is not None:
            near = finite(reports).all(1)
            near &= (np.abs(reports - (low + high) / 2) < high - low + margin).all(1)
            for mask, mark, color, name in (
                (near & ~refused, ".", GREY, "report"),
                (near & refused, "x", RED, "refused"),
            ):
                if mask.any():
                    x, y = reports[mask].T
                    ax.plot(x, y, mark, color=color, markersize=4, label=name)
                    low = np.minimum(low, reports[mask].min(0))
                    high = np.maximum(high, reports[mask].max(0))
        ax.set_xlim(low[0] - margin, high[0] + margin)
        ax.set_ylim(low[1] - margin, high[1] + margin)
        ax.set_aspect("equal", adjustable="box")
        legend(figure, ax)

    return draw(4.6, paint)


def _ellipse(cov: np.ndarray) -> np.ndarray:
    """Outline of 95 % of a Gaussian, `(points, 2)`."""
    values, vectors = np.linalg.eigh(cov)
    turn = np.linspace(0, 2 * np.pi, 41)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    return (circle * np.sqrt(_CHI2 * np.maximum(values, 0))) @ vectors.T


def over_time(times: np.ndarray, lines: Sequence[Line]) -> bytes:
    """Draw numbers over time, one panel each, with intervals and reports.

    Args:
        times: of the steps.
        lines: the numbers.

    Returns:
        A PNG.
    """

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(len(lines), 1, squeeze=False, sharex=True).ravel()
        for ax, line in zip(grid, lines, strict=True):
            ends = [line.centre, line.low, line.high]
            shown = np.concatenate([e[finite(e)] for e in ends if e is not None])
            ax.set_ylabel(line.name)
            if not shown.size:
                no_values(ax, "nothing is known")
                continue
            low, high = shown.min(), shown.max()
            margin = 0.08 * (high - low) or 1.0
            if line.low is not None and line.high is not None:
                band = (times, line.low, line.high)
                ax.fill_between(*band, color=PALE, alpha=0.35, linewidth=0)
            if line.dots is not None:
                ax.plot(times, line.dots, ".", color=GREY, markersize=3)
            ax.plot(times, line.centre, color=INK, linewidth=1.1)
            ax.set_ylim(low - margin, high + margin)
        grid[-1].set_xlabel("time")

    return draw(1.35 * len(lines) + 0.5, paint)


def shares(times: np.ndarray, values: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw probabilities over time, stacked to one.

    Args:
        times: of the steps.
        values: probabilities, `(time, things)`.
        names: of the things.

    Returns:
        A PNG.
    """

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        colors = [COLOURS[k % len(COLOURS)] for k in range(len(names))]
        ax.stackplot(times, values.T, labels=list(names), colors=colors, alpha=0.8)
        ax.set_ylim(0, 1)
        ax.set_xlim(times[0], times[-1] if times[-1] > times[0] else times[0] + 1)
        ax.set_xlabel("time")
        ax.set_ylabel("probability")
        legend(figure, ax)

    return draw(2.3, paint)
