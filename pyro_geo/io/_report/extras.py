"""Pictures that a caller adds to a report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyro_geo.io._report import html, pictures
from pyro_geo.io._report.scatters import scatter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Bars", "Curves", "Images", "Scatter"]

_NAMED = 4  # pictures whose text a screen reader says


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
        return html.figure(png, f"{self.y_label} over {self.x_label}", self.caption)


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
        known = {name: value for name, value in self.values.items() if value == value}
        most = max(known, key=lambda name: known[name], default=None)
        alt = f"{self.label}, the most for {most}" if most is not None else self.label
        return html.figure(png, alt, self.caption)


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
        return html.figure(png, f"{self.y_label} against {self.x_label}", self.caption)


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
        some = ", ".join(self.titles[:_NAMED])
        more = " and so on" if len(self.titles) > _NAMED else ""
        alt = f"{len(self.titles)} small pictures: {some}{more}."
        return html.figure(png, alt, self.caption)
