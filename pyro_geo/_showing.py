"""How objects print themselves, and what a notebook shows of results."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pyro_geo.checks import shown_value

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Made", "Shown", "fields_html", "fields_line", "notebook"]

_MOST_ROWS = 60
_LONGEST = 60  # characters of one option in a line
_OTHERS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Made:
    """An object that prints itself as the call that made it.

    Options are read from attributes of the same name, with or without an underscore
    before it. Those at their default are left out.

    Example:
        >>> class Plane(Made):
        ...     def __init__(self, size, *, noise=0.1):
        ...         self.size, self._noise = size, noise
        >>> Plane(3), Plane(3, noise=0.5)
        (Plane(size=3), Plane(size=3, noise=0.5))
    """

    def __repr__(self) -> str:
        """Name the class and the options that were chosen."""
        parts = []
        held = vars(self)
        for name, one in inspect.signature(type(self)).parameters.items():
            key = name if name in held else f"_{name}"
            if key not in held:  # an option that has become something else
                required = one.default is one.empty and one.kind not in _OTHERS
                parts += [f"{name}=..."] * required
                continue
            if _same(held[key], one.default):
                continue
            text = shown_value(held[key])
            long = len(text) > _LONGEST
            parts.append(f"{name}={type(held[key]).__name__ if long else text}")
        return f"{type(self).__name__}({', '.join(parts)})"


class Shown:
    """A result that prints itself in a line, and as a small table in a notebook.

    Subclasses give facts, and if they have them a table and warnings.

    Example:
        >>> class Score(Shown):
        ...     def _shown_facts(self):
        ...         return {"error": 0.25, "data": 100}
        >>> Score()
        Score(error 0.25, data 100)
        >>> "<th>error</th><td>0.25</td>" in Score()._repr_html_()
        True
    """

    def _shown_facts(self) -> Mapping[str, object]:
        return {}

    def _shown_table(self) -> pd.DataFrame | None:
        return None

    def _shown_notes(self) -> Sequence[str]:
        return ()

    def __repr__(self) -> str:
        """Say in one line what was found."""
        parts = [f"{name} {_plain(x)}" for name, x in self._shown_facts().items()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Show the result in a notebook."""
        table = self._shown_table()
        rows = self._shown_facts() if table is None else table
        return notebook(repr(self), rows, self._shown_notes())


def fields_line(value: Any) -> str:
    """Show a named tuple of tensors in a line, by the shapes of its fields.

    Args:
        value: a named tuple, of tensors and of dictionaries and named tuples of them.

    Returns:
        Its class and each field with its shape.

    Example:
        >>> import torch
        >>> from typing import NamedTuple
        >>> class Path(NamedTuple):
        ...     mu: torch.Tensor
        ...     by: dict[str, torch.Tensor]
        >>> fields_line(Path(torch.zeros(3, 2), {"x": torch.zeros(3)}))
        'Path(mu (3, 2), by.x (3,))'
    """
    parts = [f"{name} {shape}" for name, shape in _shapes(value._asdict()).items()]
    return f"{type(value).__name__}({', '.join(parts)})"


def fields_html(value: Any) -> str:
    """Show it in a notebook, a row for each field; see :func:`fields_line`."""
    shapes = _shapes(value._asdict())
    return notebook(type(value).__name__, shapes, head=("field", "shape"))


def _shapes(fields: Mapping[str, Any]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in fields.items():
        inside = value._asdict() if hasattr(value, "_asdict") else value
        if isinstance(inside, Mapping):
            shown |= {f"{name}.{part}": x for part, x in _shapes(inside).items()}
        else:
            shown[name] = str(tuple(value.shape))
    return shown


def notebook(
    title: str,
    rows: pd.DataFrame | Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    *,
    head: tuple[str, str] | None = None,
) -> str:
    """Show a result in a notebook: a line, one small table, warnings.

    It has no colours of its own, so that it can be read on a dark page too.

    Args:
        title: the line.
        rows: a table, or facts by name.
        notes: warnings and assumptions.
        head: titles of the two columns of facts.

    Returns:
        HTML; all texts are escaped.

    Example:
        >>> notebook("Score(1)", {"error": 0.5})
        '<p><code>Score(1)</code></p><table><tr><th>error</th><td>0.5</td></tr></table>'
    """
    parts = [f"<p><code>{escape(title)}</code></p>"]
    if isinstance(rows, Mapping):
        parts.append(_facts(rows, head))
    elif rows is not None:
        parts.append(rows.head(_MOST_ROWS).to_html(float_format="{:.3g}".format))
        if len(rows) > _MOST_ROWS:
            parts.append(f"<p>The first {_MOST_ROWS} of {len(rows):,} rows.</p>")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return "".join([*parts, f"<ul>{items}</ul>" if items else ""])


def _facts(rows: Mapping[str, object], head: tuple[str, str] | None) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(name)}</th>" for name in head or ())
    body = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(_plain(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"


def _plain(value: object) -> str:
    """Write a number with four digits, and a text as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _same(value: object, default: object) -> bool:
    """Say whether an option has its default; tensors never do."""
    if isinstance(value, tuple) and isinstance(default, tuple):
        return len(value) == len(default) and all(map(_same, value, default))
    plain = (int, float, str)
    both = isinstance(value, plain) and isinstance(default, plain)
    return value is default or (both and value == default)
