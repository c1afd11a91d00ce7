"""Pictures that a caller adds to a report."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyro_geo.io._report import html, pictures
from pyro_geo.io._report.scatters import scatter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Bars", "Curves", "Images", "Scatter"]

_TOLD = 6  # lines or bars that the text for those who cannot see a picture tells


class Curves(NamedTuple):
    """Lines over one axis, for a report.

    Attributes:
        caption: what they show.
        x: where the points are.
        lines: name to a value at each point.
        x_label: what the axis is.
        y_label: what the lines are.
    """

    caption: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str

    def figure(self) -> str:
        """Draw them, as HTML."""
        png = pictures.curves(self.x, self.lines, self.x_label, self.y_label)
        lines = _some([f"{k} {_course(v)}" for k, v in self.lines.items()])
        alt = f"{self.y_label} over {self.x_label}: {lines}."
        return html.figure(png, alt, self.caption)


class Bars(NamedTuple):
    """One number for each of some things, for a report.

    Attributes:
        caption: what they show.
        values: name to the number, in the order that they are drawn in.
        label: what the numbers are.
    """

    caption: str
    values: Mapping[str, float]
    label: str

    def figure(self) -> str:
        """Draw them, as HTML."""
        png = pictures.bars(self.values, self.label)
        alt = _some([f"{name} {_short(x)}" for name, x in self.values.items()])
        return html.figure(png, f"{self.label}: {alt}.", self.caption)


class Scatter(NamedTuple):
    """Pairs of numbers that ought to be equal, for a report.

    Attributes:
        caption: what they show.
        groups: name to the numbers along the two axes.
        x_label: what the first are.
        y_label: what the second are.
    """

    caption: str
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x_label: str
    y_label: str

    def figure(self) -> str:
        """Draw them, as HTML."""
        png = scatter(self.groups, self.x_label, self.y_label)
        names = _some(list(self.groups))
        alt = f"{self.y_label} against {self.x_label}: {names}."
        return html.figure(png, alt, self.caption)


class Images(NamedTuple):
    """Small pictures side by side, each with a line of text, for a report.

    Attributes:
        caption: what they show.
        pixels: grey values, `(count, height, width)`; scaled together.
        titles: one line for each.
    """

    caption: str
    pixels: "ArrayLike"
    titles: Sequence[str]

    def figure(self) -> str:
        """Draw them, as HTML."""
        png = pictures.images(self.pixels, self.titles)
        alt = f"{len(self.titles)} small pictures: {_some(self.titles)}."
        return html.figure(png, alt, self.caption)


def _some(texts: Sequence[str]) -> str:
    """Join the first few."""
    more = f"; and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return "; ".join(map(str, texts[:_TOLD])) + more


def _course(values: Sequence[float]) -> str:
    """Say in words where a line begins and ends."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "without a finite value"
    return f"from {_short(known[0])} to {_short(known[-1])}"


def _short(value: float) -> str:
    return f"{value:.4g}"
