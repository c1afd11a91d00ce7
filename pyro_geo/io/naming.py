"""Names of sites and axes, mapped one to one to names that files can hold.

Pyro takes any text as the name of a site. NetCDF, ArviZ's containers and folders do
not. There are two steps: to a name that ArviZ data has in memory and in NetCDF, and
from there to the name of a folder in a store. Reading a store undoes the second.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pyro_geo.errors import ConfigurationError

__all__ = [
    "LOG_WEIGHTS",
    "RENAMED",
    "SAMPLE_DIMS",
    "WEIGHTED_DIMS",
    "Naming",
    "folder_name",
    "folder_names",
    "name_all",
    "true_names",
]

SAMPLE_DIMS = ("chain", "draw")
LOG_WEIGHTS = "log_weights"
# Also taken where draws have weights: axes of raw particles and of an annealed path.
WEIGHTED_DIMS = ("particle", "stage", LOG_WEIGHTS)
RENAMED = "renamed"
"""Attribute of a group that has the true names of what was renamed, as JSON."""

_Key = TypeVar("_Key", str, tuple[int, str])

_SITE, _AXIS = 0, 1  # a site goes before an axis of its name
_LONGEST = 200  # bytes; most file systems allow 255, and names are made longer here
# control characters, halves of surrogate pairs, which UTF-8 does not have, and what
# zarr takes for a slash
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\\\\]")
_ZARR = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}  # files of its own
_NO_FOLDER = re.compile(r'[<>:"|?*]')
_ON_WINDOWS = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(10)
}


class Naming(NamedTuple):
    """The names that sites and axes have in ArviZ data.

    Attributes:
        sites: true name to that in ArviZ data, one to one.
        axes: likewise; no axis has the name of a site.
        taken: names that neither can have.
    """

    sites: Mapping[str, str]
    axes: Mapping[str, str]
    taken: frozenset[str]

    def fresh(self, name: str) -> str:
        """Give a name, or one like it that nothing has."""
        used = {*self.sites.values(), *self.axes.values(), *self.taken}
        while name in used:
            name += "_"
        return name

    def changed(self, sites: Iterable[str], axes: Iterable[str]) -> dict[str, str]:
        """Say which names of sites and axes were changed.

        Args:
            sites: true names.
            axes: true names.

        Returns:
            Name in ArviZ data to true name.
        """
        pairs = [(self.sites[name], name) for name in sites]
        pairs += [(self.axes[name], name) for name in axes]
        return {new: name for new, name in pairs if new != name}


def name_all(
    sites: Iterable[str], axes: Iterable[str], taken: Iterable[str] = SAMPLE_DIMS
) -> Naming:
    """Name the sites and the axes of a model in ArviZ data.

    A name stays what it is unless it is empty, too long, taken, a file of zarr's, or
    has a slash (which separates groups in NetCDF files and in a `DataTree`), a
    backslash or characters that are not text. Where a changed name is another's
    already, underscores are added.

    Args:
        sites: their names.
        axes: names of their axes.
        taken: names that neither can have, such as those of sample axes.

    Returns:
        The names, a function of the arguments as sets.

    Raises:
        ConfigurationError: a name that is no text.

    Example:
        >>> found = name_all(["a/b", "a.b", "draw", "x"], ["x", "x_dim_0"])
        >>> found.sites["a.b"], found.sites["a/b"], found.sites["draw"]
        ('a.b', 'a.b_', 'draw_')
        >>> found.axes
        {'x_dim_0': 'x_dim_0', 'x': 'x_'}
    """
    taken = frozenset(taken)
    every = {(_SITE, name): name for name in sites}
    every |= {(_AXIS, name): name for name in axes}
    for name in every.values():
        if not isinstance(name, str):
            raise ConfigurationError(
                "the name of a site or of an axis is no text",
                where="model",
                found=repr(name),
                expected="a string",
                todo="Name sites and plates by strings.",
            )
    chosen = _one_to_one(every, _text, _composed, taken)
    named = [
        {name: new for (kind, name), new in chosen.items() if kind == wanted}
        for wanted in (_SITE, _AXIS)
    ]
    return Naming(named[0], named[1], taken)


def folder_names(
    names: Iterable[str], taken: Iterable[str] = SAMPLE_DIMS
) -> dict[str, str]:
    """Name the folders of the arrays of a group, on any file system.

    Args:
        names: of the arrays in ArviZ data.
        taken: folders that none can have.

    Returns:
        Name to that of its folder, one to one even where case does not count.

    Example:
        >>> found = folder_names(["w", "W", "con", "a:b", ".hidden"])
        >>> [found[name] for name in ("W", "w", "con", "a:b", ".hidden")]
        ['W', 'w_', 'con_', 'a_b', '_hidden']
    """

    def same(name: str) -> str:
        return _composed(_composed(name).casefold())

    return _one_to_one({name: name for name in names}, folder_name, same, taken)


def folder_name(name: str) -> str:
    """Give the name of a folder for an array.

    Args:
        name: of the array in ArviZ data.

    Returns:
        The same name wherever a folder can have it.

    Example:
        >>> folder_name("layer.weight"), folder_name("con"), folder_name("..")
        ('layer.weight', 'con_', 'x__')
    """
    name = _NO_FOLDER.sub("_", _text(name))
    hidden = len(name) - len(name.lstrip("."))
    name = "_" * hidden + name[hidden:]
    if name[-1] in ". ":
        name = f"{name[:-1]}_"
    if name.startswith("__"):  # Zarr keeps such names for itself
        name = f"x{name}"
    stem, dot, rest = name.partition(".")
    if stem.strip().casefold() in _ON_WINDOWS:
        name = f"{stem}_{dot}{rest}"
    return f"{name}_" if name.casefold() == "zarr.json" else name


def true_names(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Read the true names of what was renamed from the attributes of a group.

    Args:
        attrs: of the posterior, say.

    Returns:
        Name in ArviZ data to true name, of sites and axes that were renamed.

    Example:
        >>> from pyro_geo.io.arviz import get_group, to_arviz
        >>> import numpy as np, warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     idata = to_arviz({"posterior": {"net/w": np.zeros((2, 5))}})
        >>> true_names(get_group(idata, "posterior").attrs)
        {'net.w': 'net/w'}
    """
    return dict(json.loads(attrs.get(RENAMED, "{}")))


def _one_to_one(
    names: Mapping[_Key, str],
    change: Callable[[str], str],
    same: Callable[[str], str],
    taken: Iterable[str] = (),
) -> dict[_Key, str]:
    """Change names so that no two are the same; good ones stay whatever the others.

    Args:
        names: to change, by keys whose order says which of two equal ones goes first.
        change: what is asked of each alone.
        same: equal for two names that cannot stand beside each other.
        taken: names that none can have.

    Returns:
        The new names by their keys.
    """
    used = {same(name) for name in taken}
    keys = sorted(names)
    good = {}
    for key in keys:
        name = names[key]
        if change(name) == name and same(name) not in used:
            good.setdefault(same(name), key)
    chosen = {key: names[key] for key in good.values()}
    used |= set(good)
    for key in keys:
        if key not in chosen:
            new = change(names[key])
            while same(new) in used:
                new = change(f"{new}_")
            used.add(same(new))
            chosen[key] = new
    return chosen


def _text(name: str) -> str:
    """A name that ArviZ data can have."""
    text = _UNWRITABLE.sub("_", name.replace("/", "."))
    text = f"{text}_" if text in _ZARR else text
    if not text.strip(". "):
        text = "_" * max(1, len(text))
    if len(encoded := text.encode()) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        start = encoded[: _LONGEST - 20].decode(errors="ignore")
        text = f"{start}_{digest[:16]}"
    return text


def _composed(name: str) -> str:
    """One way of writing accents: some libraries and disks change it."""
    return unicodedata.normalize("NFC", name)
