"""Pictures of draws and their statistics."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_geo.io._report.components import Component, finite
from pyro_geo.io._report.style import (
    BLUE,
    COLOURS,
    INK,
    RED,
    count_axis,
    draw,
    few_ticks,
    legend,
    no_values,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = [
    "FEW_CHAINS",
    "bars",
    "curves",
    "histograms",
    "images",
    "marginals",
    "pair",
    "stages",
]

_BARS = 40  # bars of a picture
_PER_ROW = 8  # small pictures side by side
# More chains than this are drawn as intervals, not as traces.
FEW_CHAINS = len(COLOURS)
_MARKED = 60  # points of a line that get a mark each
_DASHES = ("-", "--", ":", "-.")


def _histogram(ax: "Axes", values: np.ndarray, **options: Any) -> None:
    """Draw a histogram; a single line where all values are the same."""
    low, high = values.min(), values.max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = 0.5 * max(abs(low), 1.0)
        ax.axvline(low, color=BLUE, linewidth=2)
        ax.set_xlim(low - around, low + around)
        ax.set_yticks([])
        return
    count = int(np.clip(math.sqrt(values.size), 6, 40))
    # one outline: a patch for each bar takes most of the time of a report
    edges = np.linspace(low, high, count + 1).tolist()
    ax.hist(values, bins=edges, histtype="stepfilled", **options)
    ax.set_yticks([])
    few_ticks(ax)


def _tail(values: np.ndarray) -> str:
    """Count the values of a panel that cannot be drawn."""
    missing = int(values.size - finite(values).sum())
    return f"  ({missing} of {values.size} not finite)" if missing else ""


def marginals(components: Sequence[Component], chain_name: str) -> bytes:
    """Draw distributions, and traces or chain by chain intervals beside them.

    Args:
        components: one row each.
        chain_name: what a chain is called.

    Returns:
        A PNG.
    """

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(len(components), 2, squeeze=False)
        for (left, right), part in zip(grid, components, strict=True):
            left.set_title(shorten(part.name) + _tail(part.values))
            left.set_yticks([])
            usable = part.values[finite(part.values)]
            if not usable.size:
                no_values(left, "no finite draw")
                right.set_axis_off()
                continue
            _histogram(left, usable, color=BLUE, alpha=0.35)
            if 1 < len(part.values) <= FEW_CHAINS:
                _chain_outlines(left, part.values)
            if len(part.values) <= FEW_CHAINS:
                _trace(right, part.values)
            else:
                _intervals(right, part.values, chain_name)

    return draw(1.5 * len(components) + 0.25, paint)


def _chain_outlines(ax: "Axes", values: np.ndarray) -> None:
    """Draw each chain's histogram as an outline, scaled to the pooled one."""
    usable = finite(values)
    low, high = values[usable].min(), values[usable].max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return
    bins = np.linspace(low, high, int(np.clip(math.sqrt(values.shape[1]), 6, 30)) + 1)
    pooled = int(np.clip(math.sqrt(usable.sum()), 6, 40))
    for color, chain, keep in zip(COLOURS, values, usable, strict=False):
        weight = usable.sum() * (len(bins) - 1) / (pooled * max(keep.sum(), 1))
        height = np.histogram(chain[keep], bins)[0] * weight
        ax.stairs(height, bins, color=color, linewidth=1.1)


def _trace(ax: "Axes", values: np.ndarray) -> None:
    """Draw the draws in their order, a line per chain."""
    for color, chain in zip(COLOURS, values, strict=False):
        y = np.where(finite(chain), chain, np.nan)
        marker = "o" if len(chain) < 60 else ""
        ax.plot(y, color=color, linewidth=0.7, marker=marker, markersize=2.5)
    ax.set_xlabel("draw")
    few_ticks(ax)


def _intervals(ax: "Axes", values: np.ndarray, chain_name: str) -> None:
    """Draw each chain's median and central 90 % interval."""
    usable = [chain[finite(chain)] for chain in values]
    index = [i for i, chain in enumerate(usable) if chain.size]
    low, middle, high = np.transpose(
        [np.quantile(usable[i], [0.05, 0.5, 0.95]) for i in index]
    )
    # all chains in two artists: one each takes seconds for hundreds of chains
    ax.vlines(index, low, high, color=BLUE, linewidth=0.9, alpha=0.7)
    ax.plot(index, middle, "o", color=BLUE, markersize=2.6)
    ax.set_xlabel(chain_name)


def stages(losses: Mapping[str, np.ndarray], limit: int = 300) -> bytes:
    """Draw the loss of every draw through the stages of its trajectory.

    Args:
        losses: stage to losses, all of one shape, in the order of the stages.
        limit: lines to draw at most.

    Returns:
        A PNG.
    """
    table = np.stack([np.ravel(v).astype(float) for v in losses.values()])
    table = np.where(finite(table), table, np.nan)

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        step = max(1, math.ceil(table.shape[1] / limit))
        ax.plot(table[:, ::step], color=BLUE, alpha=0.25, linewidth=0.8)
        middle = [
            np.median(row[finite(row)] if finite(row).any() else np.nan)
            for row in table
        ]
        ax.plot(middle, "o-", color=INK, linewidth=2, label="median")
        known = table[~np.isnan(table)]
        if known.size and known.min() > 0 and known.max() > 100 * known.min():
            ax.set_yscale("log")
        ax.set_xticks(range(len(losses)), list(losses))
        ax.set_xlim(-0.2, len(losses) - 0.8)
        ax.set_ylabel("loss")
        legend(figure, ax)

    return draw(3.2, paint)


def histograms(stats: Mapping[str, np.ndarray]) -> bytes:
    """Draw a small histogram of each statistic.

    A statistic that is positive and spans three decades is drawn as its logarithm.

    Args:
        stats: name to values of any shape.

    Returns:
        A PNG.
    """
    rows = math.ceil(len(stats) / 3)

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(rows, 3, squeeze=False).ravel()
        for ax in grid[len(stats) :]:
            ax.set_axis_off()
        for ax, (name, raw) in zip(grid, stats.items(), strict=False):
            values = np.ravel(raw).astype(float)
            usable = values[finite(values)]
            title = name
            if usable.size and usable.min() > 0 and usable.max() > 1e3 * usable.min():
                usable, title = np.log10(usable), f"log10 {name}"
            ax.set_title(shorten(title) + _tail(values))
            if usable.size:
                _histogram(ax, usable, color=BLUE, alpha=0.75)
            else:
                ax.set_axis_off()
                no_values(ax, "no finite value")

    return draw(1.5 * rows + 0.2, paint)


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
) -> bytes:
    """Draw some lines over one axis, which is logarithmic if it spans a decade.

    Args:
        x: where the points are.
        lines: name to a value at each.
        x_label: what the axis is.
        y_label: what the lines are.

    Returns:
        A PNG.
    """

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        many = len(lines) > len(COLOURS)
        for i, (name, values) in enumerate(lines.items()):
            if many:  # nobody can tell so many colours apart
                ax.plot(x, values, color=BLUE, linewidth=0.9, alpha=0.5)
                continue
            ax.plot(
                x,
                values,
                color=COLOURS[i],
                linestyle=_DASHES[i % len(_DASHES)],
                marker="." if len(x) <= _MARKED else "",
                markersize=4,
                label=shorten(name),
            )
        if min(x) > 0 and max(x) > 10 * min(x):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")  # powers would need mathematics
        else:
            count_axis(ax, x)
        if 1 < len(lines) and not many:
            legend(figure, ax)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)

    return draw(3.2, paint)


def bars(values: Mapping[str, float], label: str) -> bytes:
    """Draw a bar for each name, the first at the top; 40 at most.

    Args:
        values: name to number. What cannot be drawn keeps its name and has no bar.
        label: what the numbers are.

    Returns:
        A PNG.
    """
    shown = list(values.items())[:_BARS]
    lengths = np.array([value for _, value in shown], dtype=float)
    lengths = np.where(finite(lengths), lengths, 0.0)

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        places = np.arange(len(shown))
        ax.barh(places, lengths, color=BLUE, height=0.7)
        ax.set_yticks(places, [shorten(name) for name, _ in shown])
        ax.invert_yaxis()
        ax.set_xlabel(label)
        if len(shown) < len(values):
            ax.set_title(f"the first {len(shown)} of {len(values)}")

    return draw(0.9 + 0.24 * max(1, len(shown)), paint)


def images(pixels: "ArrayLike", titles: Sequence[str]) -> bytes:
    """Draw small grey pictures side by side, one scale for all.

    Args:
        pixels: `(count, height, width)`.
        titles: a line above each.

    Returns:
        A PNG.
    """
    values = np.asarray(pixels, dtype=float)
    rows = max(1, -(-len(values) // _PER_ROW))

    def paint(figure: "Figure") -> None:
        axes = figure.subplots(rows, _PER_ROW, squeeze=False).ravel()
        for ax in axes:
            ax.axis("off")
        shown = values[finite(values)]
        low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
        for ax, picture, title in zip(axes, values, titles, strict=False):
            ax.imshow(picture, cmap="gray_r", vmin=low, vmax=high)
            ax.set_title(title, fontsize=7)

    return draw(1.25 * rows, paint)


def pair(
    plane: np.ndarray,
    labels: tuple[str, str],
    chain: np.ndarray,
    diverging: np.ndarray,
    chain_name: str,
) -> bytes:
    """Draw the draws in a plane.

    Args:
        plane: coordinates, `(draws, 2)`.
        labels: what the two axes are.
        chain: the chain of each draw, `(draws,)`; in colours of their own if few.
        diverging: draws to mark, `(draws,)`.
        chain_name: what a chain is called.

    Returns:
        A PNG.
    """
    chains = np.unique(chain)
    size = float(np.clip(2200 / max(len(plane), 1), 5, 28))

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        many = len(chains) > FEW_CHAINS
        for color, index in zip(COLOURS, [None] if many else chains, strict=False):
            of = slice(None) if index is None else chain == index
            x, y = plane[of].T
            name = "draws" if index is None else f"{chain_name} {index}"
            ax.scatter(x, y, s=size, color=color, alpha=0.55, linewidths=0, label=name)
        if diverging.any():
            x, y = plane[diverging].T
            ax.scatter(x, y, s=40, marker="x", color=RED, label="diverging")
        if diverging.any() or 1 < len(chains) <= FEW_CHAINS:
            legend(figure, ax)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])

    return draw(4.6, paint)
