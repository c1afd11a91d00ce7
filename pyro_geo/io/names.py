"""Axis names and coordinates of groups of arrays."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.io.naming import LOG_WEIGHTS, SAMPLE_DIMS, Naming, name_all

__all__ = [
    "PARTICLE_DIMS",
    "SAMPLE_DIMS",
    "SERIES_DIMS",
    "STAGE_DIMS",
    "STATISTICS",
    "Coords",
    "Dims",
    "Labels",
    "label_group",
    "name_groups",
    "plain_facts",
    "plain_text",
]

Dims: TypeAlias = Mapping[str, Sequence[str | None]]
Coords: TypeAlias = Mapping[str, Sequence[object] | np.ndarray]

PARTICLE_DIMS = ("particle", "draw")
STAGE_DIMS = ("particle", "stage")
SERIES_DIMS = ("track", "time")
"""What a filter's values lead with: series, and steps in time."""
STATISTICS = (
    "sample_stats",
    "sample_stats_prior",
    "warmup_sample_stats",
    "stage_stats",
)
"""Groups of statistics: one may have the name of a site and is named apart from it."""


class Labels(NamedTuple):
    """The named axes of one group.

    Attributes:
        dims: array to names of its axes, both as in ArviZ data.
        coords: labels of each axis.
        renamed: name in ArviZ data to true name, of arrays and axes that differ.
    """

    dims: dict[str, tuple[str, ...]]
    coords: dict[str, np.ndarray]
    renamed: dict[str, str]


def name_groups(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    dims: Dims,
    leads: Mapping[str, Sequence[str]],
    taken: Iterable[str],
) -> dict[str, Naming]:
    """Name the arrays and the axes of all groups, the same in each.

    Args:
        groups: group to arrays, under their true names.
        dims: site to names of the axes after the leading ones; sites that are in no
            group count as well.
        leads: group to names of its leading axes.
        taken: names that neither a site nor an axis can have.

    Returns:
        Group to names.
    """
    taken = frozenset(taken)
    named: dict[bool, tuple[list[str], list[str]]] = {
        False: ([*dims], []),
        True: ([], []),
    }
    named[False][1].extend(n for names in dims.values() for n in names if n is not None)
    for group, arrays in groups.items():
        sites, axes = named[group in STATISTICS]
        for site, array in arrays.items():
            sites.append(site)
            rank = max(0, array.ndim - len(leads[group]))
            axes.extend(f"{site}_dim_{axis}" for axis in range(rank))
            own = dims.get(site, ())
            if group in STATISTICS and len(own) <= rank:
                axes.extend(name for name in own if name is not None)
    # sites alone stand beside the weights
    allowed = {False: taken, True: taken - {LOG_WEIGHTS}}
    both = {kind: name_all(*lists, allowed[kind]) for kind, lists in named.items()}
    return {group: both[group in STATISTICS] for group in groups}


def label_group(
    group: str,
    arrays: Mapping[str, np.ndarray],
    naming: Naming,
    dims: Dims,
    coords: Coords,
    *,
    lead: Sequence[str] = (),
    cut: bool = False,
    new_data: bool = False,
) -> Labels:
    """Name every axis of a group's arrays.

    Args:
        group: the group's name, for messages.
        arrays: the group's arrays, under their true names.
        naming: names of arrays and axes in ArviZ data.
        dims: names of the axes after the leading ones, from the left; unnamed ones get
            ArviZ's default names.
        coords: labels along a named axis.
        lead: names of the leading axes, such as chain and draw.
        cut: whether names beyond the array's axes are left out, as for a
            log-likelihood, which has no event axes.
        new_data: whether labels of another length are left out, as for predictions,
            which are made at other inputs.

    Returns:
        Axis names per array, and the labels of each axis.

    Raises:
        ShapeError: more names than axes, one name for axes of two lengths, or a wrong
            number of labels.
    """
    named: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    true: dict[str, str] = {}
    # axes with a default name that is also given, to a plate say, whose labels it has
    given = {
        name
        for site, names in dims.items()
        for axis, name in enumerate(names)
        if name != f"{site}_dim_{axis}"
    }
    strangers: set[str] = set()
    axes = {
        site: list(_axes(group, site, a, lead, dims, cut)) for site, a in arrays.items()
    }
    for site, own in axes.items():
        for axis, raw, size in own:
            if raw == f"{site}_dim_{axis}":
                continue
            if sizes.setdefault(naming.axes[raw], size) != size:
                raise ShapeError(
                    f"Dimension {raw!r} has two lengths",
                    f"group {group!r}, site {site!r}, axis {axis}",
                    size,
                    sizes[naming.axes[raw]],
                    "Give the two axes different names in `dims`.",
                )
    for site, own in axes.items():
        names: list[str] = []
        for axis, raw, size in own:
            name = naming.axes[raw]
            if name in names or sizes.get(name, size) != size:
                # a default name that is the given name of another axis
                name = naming.fresh(name)
                while name in sizes:
                    name += "_"
            sizes[name], true[name] = size, raw
            if raw == f"{site}_dim_{axis}" and raw in given:
                strangers.add(name)
            names.append(name)
        new = naming.sites[site]
        named[new], true[new] = (*lead[: arrays[site].ndim], *names), site
    labels = _labels(group, sizes, true, coords, sizes if new_data else strangers)
    return Labels(named, labels, {n: raw for n, raw in true.items() if n != raw})


def _axes(
    group: str,
    site: str,
    array: np.ndarray,
    lead: Sequence[str],
    dims: Dims,
    cut: bool,
) -> Iterator[tuple[int, str, int]]:
    """Number, true name and length of each axis of an array after the leading ones."""
    shape = array.shape[len(lead) :]  # statistics may lack the later sample axes
    names = dims.get(site, ())
    if len(names) > len(shape):
        if group in STATISTICS:  # they are of a site that has the statistic's name
            names = ()
        elif not cut:
            raise ShapeError(
                "More dimension names than axes",
                f"group {group!r}, site {site!r}",
                f"{len(names)} names {tuple(names)} for an array of shape {shape}",
                f"at most {len(shape)} names",
                "Name only the axes that come after chain and draw.",
            )
    # names go from the left; axes without one get ArviZ's default name
    padded = [*names, *[None] * len(shape)][: len(shape)]
    chosen = [
        f"{site}_dim_{axis}" if name is None else name
        for axis, name in enumerate(padded)
    ]
    given = [name for axis, name in enumerate(chosen) if name != f"{site}_dim_{axis}"]
    if len(set(given)) < len(given):
        raise ShapeError(
            "A dimension name is used twice",
            f"group {group!r}, site {site!r}",
            tuple(chosen),
            "different names for different axes",
            "Rename one of them, or give None for ArviZ's default name.",
        )
    yield from zip(range(len(shape)), chosen, shape, strict=True)


def _labels(
    group: str,
    sizes: Mapping[str, int],
    true: Mapping[str, str],
    coords: Coords,
    optional: Container[str],
) -> dict[str, np.ndarray]:
    """Labels of the axes in use, integers for none and for optional ones of no fit."""
    labels = {}
    for name, size in sizes.items():
        given = coords.get(true[name])
        values = None if given is None else _plain_labels(true[name], given)
        if values is not None and values.shape != (size,) and name not in optional:
            raise ShapeError(
                f"The labels of dimension {true[name]!r} do not fit",
                f"group {group!r}",
                f"labels of shape {values.shape}",
                f"shape {(size,)}",
                "Give one label per entry in `coords`.",
            )
        fits = values is not None and values.shape == (size,)
        labels[name] = values if fits else np.arange(size)
    return labels


def _plain_labels(name: str, values: Sequence[object] | np.ndarray) -> np.ndarray:
    """Labels as an array that files can hold and give back unchanged."""
    labels = np.asarray(values)
    if labels.dtype.kind in "OUS":
        items = list(labels.flat) if labels.dtype.kind == "O" else labels.tolist()
        good = labels.ndim == 1 and all(
            isinstance(item, (str, bytes)) for item in items
        )
        if not good:
            raise ConfigurationError(
                "Labels cannot be stored",
                f"dimension {name!r}",
                sorted({type(item).__name__ for item in items}),
                "texts alone or numbers alone",
                "Give one kind of label in `coords`.",
            )
        texts = [i.decode() if isinstance(i, bytes) else i for i in items]
        return np.array([plain_text(text) for text in texts], dtype=str)
    return labels


def plain_text(value: str) -> str:
    r"""Turn any text into one that files can hold.

    Args:
        value: a text, of a class derived from `str` too.

    Returns:
        A `str`; halves of surrogate pairs and NUL characters are written as escapes.

    Example:
        >>> plain_text("2.13.0"), plain_text("a\udc80b\x00")
        ('2.13.0', 'a\\udc80b\\x00')
    """
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text.replace("\x00", "\\x00")


def plain_facts(attrs: Mapping[str, object]) -> dict[str, str | int | float]:
    """Turn facts into what a NetCDF file can hold and gives back unchanged.

    Args:
        attrs: texts and numbers by name.

    Returns:
        The same, without NumPy's types, classes derived from `str` (such as torch's
        version), truth values and integers beyond 64 bits.

    Raises:
        ConfigurationError: neither a text nor a number, or a name that is no text.
    """
    facts: dict[str, str | int | float] = {}
    for name, value in attrs.items():
        if isinstance(value, np.generic):
            value = value.item()
        if not isinstance(value, (str, int, float)):
            raise ConfigurationError(
                "An attribute cannot be stored",
                f"attribute {name!r}",
                type(value).__name__,
                "a text or a number",
                "Leave it out, or write it as text, with `json.dumps` say.",
            )
        if not isinstance(name, str) or plain_text(name) != name or not name:
            raise ConfigurationError(
                "An attribute cannot be stored",
                "attributes",
                f"the name {name!r}",
                "a text of at least one character",
                "Give it another name.",
            )
        if isinstance(value, str):
            facts[name] = plain_text(value)
        elif isinstance(value, int):
            value = int(value)  # True and False too
            facts[name] = value if -(2**63) <= value < 2**63 else str(value)
        else:
            facts[name] = float(value)
    return facts
