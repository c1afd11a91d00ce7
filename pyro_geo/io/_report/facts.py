"""Titles and facts of a page: one vocabulary for every kind of result."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath

from pyro_geo.io._report.words import show

__all__ = ["facts_html", "page_title", "versions"]

_OPEN = 8  # facts that are shown without a click
_LONG = 40  # characters of a value that has a line to itself
# What a reader asks first, in this order.
_FIRST = (
    *("model", "kernel", "method", "seed", "num_chains", "num_particles"),
    *("num_tracks", "num_draws", "num_steps", "warmup_steps", "sampling_time"),
)
_LABELS = {
    "kernel": "method",
    "dim": "dimension",
    "dtype": "floating type",
    "warmup_steps": "warm-up steps",
    "log_z": "log of the normaliser",
}
_METHODS = {
    "DIMS": "DiMS",
    "GibbsPosterior": "Gibbs posterior",
    "BoundedTracker": "Bounded tracker",
    "delete_draws": "Unlearning of draws",
}
# Names, which may look like numbers, and what is typed in again: without commas.
_AS_TYPED = ("model", "kernel", "method", "seed")
_LIBRARY = ("inference_library", "inference_library_version")
_VERSION = "_version"
# Names that say nothing of a model.
_NAMELESS = ("", "model", "<lambda>", "potential", "Target", "a posterior")
_NAMED_SITES = 3


def page_title(method: str, model: str = "", sites: Sequence[str] = ()) -> str:
    """Title a page, `method on model`, whatever kind of result it shows.

    Args:
        method: name of the class or function, or words of its own.
        model: name of the model, or the path of its file.
        sites: names of its sites, which stand for a model without a name.

    Returns:
        The title.

    Example:
        >>> page_title("DIMS", "models/gap_network.py")
        'DiMS on gap_network'
        >>> page_title("HMC", "model", ["mu", "tau", "theta", "eta"])
        'HMC on a model of mu, tau and 2 more'
    """
    name = _METHODS.get(method, method)
    model = PurePath(model).stem if model.endswith(".py") else model
    if model in _NAMELESS:
        model = f"a model of {_listed(sites)}" if sites else model
    return f"{name} on {model}" if model else name


def _listed(names: Sequence[str]) -> str:
    """Name a few things with commas and an `and`; the others are counted."""
    shown = list(names)
    if len(shown) > _NAMED_SITES:
        kept = _NAMED_SITES - 1
        shown[kept:] = [f"{len(shown) - kept} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def facts_html(items: Mapping[str, object]) -> str:
    """Make the list of facts: the first few, the others folded up.

    Args:
        items: name to value; versions of libraries are left to the foot.

    Returns:
        HTML; nothing without facts.
    """
    kept = {k: v for k, v in items.items() if not _is_version(str(k))}
    order = [name for name in _FIRST if name in kept]
    order += [name for name in kept if name not in _FIRST]
    rows = [_row(str(name), kept[name]) for name in order]
    if len(rows) <= _OPEN + 1:  # a fold for a single fact saves no room
        return _list(rows)
    label = f"{len(rows) - _OPEN} more facts"
    return (
        f"{_list(rows[:_OPEN])}<details><summary>{label}</summary>"
        f"{_list(rows[_OPEN:])}</details>"
    )


def versions(items: Mapping[str, object]) -> str:
    """Name the versions that a run was made with.

    Args:
        items: facts of the run.

    Returns:
        A list with commas; empty if no version is known.

    Example:
        >>> versions({"inference_library_version": "0.1.0", "torch_version": "2.9"})
        'pyro_geo 0.1.0, torch 2.9'
    """
    found = []
    if _LIBRARY[1] in items:
        found.append(f"{items.get(_LIBRARY[0], 'pyro_geo')} {items[_LIBRARY[1]]}")
    found += [
        f"{name.removesuffix(_VERSION)} {value}"
        for name, value in items.items()
        if name.endswith(_VERSION) and name not in _LIBRARY
    ]
    return ", ".join(found)


def _is_version(name: str) -> bool:
    return name in _LIBRARY or name.endswith(_VERSION)


def _list(rows: Sequence[str]) -> str:
    return f'<dl class="facts">{"".join(rows)}</dl>' if rows else ""


def _row(name: str, value: object) -> str:
    label = _LABELS.get(name, name.removeprefix("num_").replace("_", " "))
    text = _value(name, value)
    wide = ' class="wide"' if len(text) > _LONG else ""
    return f"<div{wide}><dt>{escape(label)}</dt><dd>{text}</dd></div>"


def _value(name: str, value: object) -> str:
    """Write a value; numbers that came as text are rounded like others."""
    if name == "interrupted" and str(value) in ("0", "1"):
        return "yes" if str(value) == "1" else "no"
    if name in _AS_TYPED:
        return escape(str(value))
    if isinstance(value, str):
        value = _number(value)
    return show(value) + (" s" if name.split("_")[-1] == "time" else "")


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
