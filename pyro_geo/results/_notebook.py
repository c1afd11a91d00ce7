"""A result as it shows itself in a notebook."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from pyro_geo.results.draws import Draws

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_html", "series_html"]

_MOST_ROWS = 100  # scalars that are tabulated unasked; more take seconds


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
    parts = [f"<p><code>{escape(title)}</code></p>"]
    if draws is None:
        parts.append(_table(("setting", "value"), list(settings.items())))
    elif draws.folder is None and _scalars(draws) <= _MOST_ROWS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # renamed sites; summary() says so
            parts.append(summary().to_html(float_format="{:.3g}".format))
    else:
        rows = [(name, tuple(shape)) for name, shape in draws.shapes.items()]
        parts.append(_table(("site", "shape"), rows))
    return "".join([*parts, _listed(notes)])


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
    parts = [f"<p><code>{escape(title)}</code></p>"]
    if rows <= _MOST_ROWS:
        parts.append(summary().to_html(float_format="{:.3g}".format))
    return "".join([*parts, _listed(notes)])


def _listed(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if notes else ""


def _scalars(draws: Draws) -> int:
    return sum(math.prod(shape) for shape in draws.shapes.values())


def _table(head: Sequence[str], rows: Sequence[tuple[str, object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
