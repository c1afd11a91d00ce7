"""The one style of all pictures: width, fonts, colours, legends; drawn without pyplot.

Figures are made directly and written by the Agg canvas, so that the caller's backend,
open figures and style stay as they are.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "INK",
    "PALE",
    "RED",
    "WIDTH",
    "count_axis",
    "draw",
    "few_ticks",
    "legend",
    "no_values",
    "shorten",
]

WIDTH = 7.0  # inches of every picture
_DPI = 140
# Okabe and Ito's colours, which colour-blind readers can distinguish too.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    *("#56b4e9", "#d55e00", "#8a7a00", "#444444"),
)
BLUE = COLOURS[0]  # one group alone
PALE = COLOURS[4]  # bands and ellipses
INK = "#16324f"  # the line in the middle of a band
GREY = "#6b7580"
RED = "#a8201a"  # what is refused or diverging, with a mark of its own
_LONGEST = 34  # characters of a name in a picture


@contextmanager
def _style() -> Iterator[None]:
    """Draw in one style, and restore the caller's afterwards."""
    import matplotlib as mpl

    ours = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "font.size": 9.5,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "text.parse_math": False,  # a site may be called "a$b"
    }
    # Not the backend: setting it would resolve or replace the caller's.
    keep = {"backend", "backend_fallback", "interactive", "toolbar"}
    settings: Any = {k: v for k, v in mpl.rcParamsDefault.items() if k not in keep}
    settings.update(ours)
    with mpl.rc_context(settings):
        yield


def draw(height: float, paint: Callable[["Figure"], None]) -> bytes:
    """Make a figure of the common width and let a function fill it.

    Args:
        height: in inches.
        paint: fills the figure.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def legend(figure: "Figure", ax: "Axes", title: str | None = None) -> None:
    """Put the legend above the axes, where it takes no width from them.

    Args:
        figure: the whole figure.
        ax: that holds what is named.
        title: of the legend.
    """
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    longest = max(map(len, labels))
    columns = int(np.clip(72 // (longest + 6), 1, len(labels)))
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        title=title,
        markerscale=1.6,
        scatterpoints=1,
    )


def count_axis(ax: "Axes", values: Sequence[float]) -> None:
    """Mark whole numbers alone on an axis of steps, draws or iterations.

    Args:
        ax: the axes.
        values: along the axis of x.
    """
    from matplotlib.ticker import MaxNLocator

    if all(float(value).is_integer() for value in values):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def few_ticks(ax: "Axes") -> None:
    """Leave a small panel as many marks as it has room for.

    Args:
        ax: the panel.
    """
    from matplotlib.ticker import MaxNLocator

    if ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(4))


def no_values(ax: "Axes", text: str) -> None:
    """Say in an empty panel that there is nothing to draw.

    Args:
        ax: the panel.
        text: what is missing.
    """
    where = ax.transAxes
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=where)


def shorten(name: str, length: int = _LONGEST) -> str:
    """Shorten a name that is too long for its panel.

    Args:
        name: a site's or a statistic's name.
        length: characters to keep.

    Returns:
        The name, with an ellipsis if it was cut.
    """
    return name if len(name) <= length else f"{name[: length - 1]}…"
