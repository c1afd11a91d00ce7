"""The picture of pairs of numbers that ought to be equal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io._report.components import finite
from pyro_geo.io._report.style import COLOURS, GREY, draw, legend, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["scatter"]


def scatter(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
) -> bytes:
    """Draw pairs about the line of equal ones.

    Args:
        groups: name to the numbers along the two axes. Pairs that cannot be drawn are
            left out.
        x_label: what the first are.
        y_label: what the second are.

    Returns:
        A PNG.
    """

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        many = len(groups) > len(COLOURS)
        limits: list[float] = []
        for i, (name, (x, y)) in enumerate(groups.items()):
            points = np.array([x, y], dtype=float)
            points = points[:, finite(points).all(0)]
            colour = COLOURS[0] if many else COLOURS[i]
            ax.scatter(*points, s=16, color=colour, alpha=0.8, label=shorten(name))
            limits += [*points.ravel()]
        if limits:
            ends = [min(limits), max(limits)]
            ax.plot(ends, ends, color=GREY, linewidth=0.9, zorder=0)
        if 1 < len(groups) and not many:
            legend(figure, ax)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)

    return draw(4.6, paint)
