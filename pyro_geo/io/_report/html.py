"""The few pieces of HTML a report is made of. Every text is escaped here."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pyro_geo.io._report.facts import facts_html, versions
from pyro_geo.io._report.template import PAGE, STYLE
from pyro_geo.io._report.words import show

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Page", "Rows", "entries", "figure", "paragraph", "table"]

# A frame, a list of mappings, or a list of rows of which the first is the header.
Rows: TypeAlias = "pd.DataFrame | Sequence[Mapping[str, object] | Sequence[object]]"


def paragraph(text: str, *, cut: bool = False) -> str:
    """Make a paragraph.

    Args:
        text: plain text.
        cut: whether it says that something was left out.

    Returns:
        HTML.
    """
    return f'<p class="cut">{escape(text)}</p>' if cut else f"<p>{escape(text)}</p>"


def figure(png: bytes, alt: str, caption: str) -> str:
    """Make a picture with its caption, the picture inside the page.

    Args:
        png: the picture.
        alt: what it shows, for those who cannot see it.
        caption: text under it.

    Returns:
        HTML.
    """
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><div class="scroll" tabindex="0"><img alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(rows: Rows, caption: str, *, limit: int = 200, open_rows: int = 60) -> str:
    """Make a table that scrolls sideways, folded up when it is long.

    Args:
        rows: a frame (its index names the rows), a list of mappings, or a list of rows
            of which the first is the header.
        caption: what the table holds.
        limit: rows to show at most; a line above says how many were left out.
        open_rows: a longer table is folded up, one of a third can be.

    Returns:
        HTML.
    """
    header, body = _cells(rows)
    shown = body[:limit]
    numeric = [
        all(
            isinstance(row[i], (int, float, np.number)) for row in shown if i < len(row)
        )
        for i in range(len(header))
    ]
    head = "".join(
        f'<th scope="col"{"" if right else " class=text"}>{escape(str(name))}</th>'
        for name, right in zip(header, numeric, strict=True)
    )
    lines = "".join(f"<tr>{_line(row, numeric)}</tr>" for row in shown)
    html = (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
    if len(shown) > open_rows // 3:
        state = "" if len(shown) > open_rows else " open"
        label = f"{escape(caption)}: {len(shown)} rows"
        html = f"<details{state}><summary>{label}</summary>{html}</details>"
    if len(shown) < len(body):
        note = f"The first {len(shown):,} of {len(body):,} rows are shown."
        html = paragraph(note, cut=True) + html
    return html


def entries(rows: Rows) -> list[object]:
    """List the entries of a table.

    Args:
        rows: as of :func:`table`.

    Returns:
        All entries of its body, row by row.

    Example:
        >>> entries([["a", "b"], [1, 2.5]])
        [1, 2.5]
    """
    return [entry for row in _cells(rows)[1] for entry in row]


def _line(row: Sequence[object], numeric: Sequence[bool]) -> str:
    """Make the cells of one row."""
    cells = []
    for i, value in enumerate(row):
        if i == 0:
            cells.append(f'<th scope="row">{show(value)}</th>')
        else:
            kind = "" if i < len(numeric) and numeric[i] else ' class="text"'
            if isinstance(value, str) and len(value) > _LONG:
                kind = ' class="text long"'
            cells.append(f"<td{kind}>{show(value)}</td>")
    return "".join(cells)


def _cells(rows: Rows) -> tuple[list[object], list[Sequence[object]]]:
    """Bring the three kinds of rows to a header and a body."""
    if hasattr(rows, "itertuples"):
        frame: pd.DataFrame = rows  # pyright: ignore[reportAssignmentType] (duck-typed)
        names = ["" if name is None else str(name) for name in frame.index.names]
        body: list[Sequence[object]]
        body = [[_name_of(row[0]), *row[1:]] for row in frame.itertuples()]
        return [", ".join(names).strip(", "), *frame.columns], body
    listed = list(rows)
    if listed and isinstance(listed[0], Mapping):
        maps = [row for row in listed if isinstance(row, Mapping)]
        header: list[object] = list(dict.fromkeys(k for row in maps for k in row))
        return header, [[row.get(str(key), "") for key in header] for row in maps]
    lists = [list(row) for row in listed]
    return (lists[0], list(lists[1:])) if lists else ([], [])


_LONG = 48  # characters of a sentence, which takes several lines of a table
# The order of the parts; pictures of single series stand in the middle.
_BEFORE = ("Summary", "Tables", "Modes", "Curves", "Comparison", "Pictures", "Cohort")
_AFTER = ("Distributions", "Largest spread", "Statistics")


def _name_of(label: object) -> object:
    """Name a row; one of several levels is a tuple."""
    return ", ".join(map(str, label)) if isinstance(label, tuple) else label


@dataclass
class Page:
    """A page in the making: sections are added, then the whole is rendered.

    Args:
        notes: warnings, one entry each.
        lost: what the run has lost, one sentence each; they come before all else.
        cards: headline numbers: label, value and whether it calls for attention.
        sections: title to body.
    """

    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    cards: list[tuple[str, object, bool]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def card(self, label: str, value: object, *, alert: bool = False) -> None:
        """Add a headline number.

        Args:
            label: what it is.
            value: the number.
            alert: whether it calls for attention.
        """
        self.cards.append((label, value, alert))

    def add(self, title: str, *parts: str) -> None:
        """Add to a section, which is made if there is something to put in.

        Args:
            title: its heading.
            *parts: HTML of its body.
        """
        if body := "\n".join(filter(None, (self.sections.get(title), *parts))):
            self.sections[title] = body

    def render(
        self, title: str, facts: Mapping[str, object], when: str, citation: str = ""
    ) -> str:
        """Put the page together, its parts in the order that all pages have.

        Args:
            title: heading of the page.
            facts: name to value, under the heading.
            when: who wrote the page, and when.
            citation: BibTeX of the works behind it.

        Returns:
            The whole page.
        """
        sections = sorted(self.sections.items(), key=lambda section: _rank(section[0]))
        links = "".join(
            f'<li><a href="#part-{i}">{escape(name)}</a></li>'
            for i, (name, _) in enumerate(sections)
        )
        bodies = "\n".join(
            f'<section aria-labelledby="part-{i}"><h2 id="part-{i}">{escape(name)}</h2>'
            f"\n{body}</section>"
            for i, (name, body) in enumerate(sections)
        )
        top = "".join(
            (
                facts_html(facts),
                _box("lost", "What this run has lost", self.lost),
                _cards(self.cards),
                _box("notes", "Please note", self.notes),
            )
        )
        return PAGE.format(
            title=escape(title),
            style=STYLE,
            top=top,
            links=links,
            bodies=bodies,
            foot=_foot(when, versions(facts), citation),
        )


def _rank(title: str) -> int:
    """Place of a section on the page."""
    if title in _BEFORE:
        return _BEFORE.index(title)
    return len(_BEFORE) + (1 + _AFTER.index(title) if title in _AFTER else 0)


def _foot(when: str, made_with: str, citation: str) -> str:
    """Say who wrote the page, what the run was made with, and whom to cite."""
    text = f"{when} The run: {made_with}." if made_with else when
    if not citation:
        return escape(text)
    return (
        f"{escape(text)}<details><summary>How to cite</summary>"
        f'<pre class="scroll" tabindex="0">{escape(citation)}</pre></details>'
    )


def _cards(items: Sequence[tuple[str, object, bool]]) -> str:
    """Make the row of headline numbers."""
    rows = "".join(
        f"<li{' class=alert' if alert else ''}><strong>{show(value)}</strong>"
        f"<span>{escape(label)}</span></li>"
        for label, value, alert in items
    )
    return f'<ul class="cards">{rows}</ul>' if rows else ""


def _box(name: str, title: str, texts: Sequence[str]) -> str:
    """Make a box of sentences."""
    if not texts:
        return ""
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return (
        f'<aside class="{name}" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>'
        f"<ul>{rows}</ul></aside>"
    )
