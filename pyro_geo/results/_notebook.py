"""A result as it shows itself in a notebook."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pyro_geo._showing import notebook
from pyro_geo.results.draws import Draws

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_html", "series_html"]

_MOST_ROWS = 60  # scalars that are tabulated unasked; more take seconds


def as_html(
    title: str,
    draws: Draws | None,
    summary: Callable[[], pd.DataFrame],
    notes: Sequence[str],
    settings: Mapping[str, object],
) -> str:
    """Show a result as a table of its sites.

    Args:
        title: representation of the result.
        draws: its draws; None before a run.
        summary: makes the table of ArviZ.
        notes: warnings of the run.
        settings: what there is to show before a run, by name.

    Returns:
        HTML with one table: the summary, or the shapes of the sites where these are
        many or the draws are in a store alone, or the settings before a run.
    """
    if draws is None:
        return notebook(title, settings, notes, head=("setting", "value"))
    if draws.folder is None and _scalars(draws) <= _MOST_ROWS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # renamed sites; summary() says so
            return notebook(title, summary(), notes)
    shapes = {name: tuple(shape) for name, shape in draws.shapes.items()}
    return notebook(title, shapes, notes, head=("site", "shape"))


def series_html(
    title: str, rows: int, summary: Callable[[], pd.DataFrame], notes: Sequence[str]
) -> str:
    """Show the result of a filter as a table of its series.

    Args:
        title: representation of the result.
        rows: of the table.
        summary: makes the table.
        notes: warnings of the run.

    Returns:
        HTML; with one table, where that is short.
    """
    return notebook(title, summary() if rows <= _MOST_ROWS else None, notes)


def _scalars(draws: Draws) -> int:
    return sum(math.prod(shape) for shape in draws.shapes.values())
