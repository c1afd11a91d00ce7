"""Dimension names and coordinates of one group of arrays."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pyro_geo.errors import ConfigurationError, ShapeError

__all__ = ["Labels", "label_group", "plain_facts", "storable"]

SAMPLE_DIMS = ("chain", "draw")


class Labels(NamedTuple):
    """The named axes of one group."""

    dims: dict[str, tuple[str, ...]]
    coords: dict[str, np.ndarray]


def storable(name: str) -> str:
    """Give the name under which a site or a dimension can be stored.

    A slash separates groups in NetCDF files and in a `DataTree`, so it cannot be part
    of a name; Pyro's scopes put one there. `chain` and `draw` are taken.

    Args:
        name: a site's or a dimension's name.

    Returns:
        The name itself wherever it can be kept.

    Example:
        >>> storable("encoder/weight"), storable("draw"), storable("layer.bias")
        ('encoder.weight', 'draw_', 'layer.bias')
    """
    name = name.replace("/", ".")
    return f"{name}_" if name in SAMPLE_DIMS else name


def label_group(
    group: str,
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, Sequence[str | None]],
    coords: Mapping[str, Sequence[object] | np.ndarray],
    *,
    sampled: bool,
    cut: bool,
    new_data: bool,
) -> Labels:
    """Name every axis of a group's arrays.

    Args:
        group: the group's name, for messages.
        arrays: the group's arrays; sampled ones lead with `(chains, draws)`.
        dims: names of the axes after those, from the left; unnamed ones get ArviZ's
            default names.
        coords: labels along a named axis.
        sampled: whether the arrays lead with `(chains, draws)`.
        cut: whether names beyond the array's axes are left out, as for a
            log-likelihood, which has no event axes.
        new_data: whether labels of another length are left out, as for predictions,
            which are made at other inputs.

    Returns:
        Axis names per array, and the labels of each axis.

    Raises:
        ShapeError: more names than axes, one name for axes of two lengths or for an
            array as well, or a wrong number of labels.
    """
    lead = SAMPLE_DIMS if sampled else ()
    named: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for site, array in arrays.items():
        shape = array.shape[len(lead) :]
        names = _axis_names(group, site, shape, dims.get(site, ()), cut=cut)
        for axis, (name, size) in enumerate(zip(names, shape, strict=True)):
            if sizes.setdefault(name, size) != size:
                raise ShapeError(
                    f"Dimension {name!r} has two lengths",
                    f"group {group!r}, site {site!r}, axis {axis}",
                    size,
                    sizes[name],
                    "Give the two axes different names in `dims`.",
                )
            if name in arrays:
                raise ShapeError(
                    f"The name {name!r} is given twice",
                    f"group {group!r}, axis {axis} of site {site!r}",
                    "a dimension with the name of a site",
                    "different names",
                    "Rename the plate, or the entry of `dims`.",
                )
        named[site] = (*lead, *names)
    return Labels(named, _labels(group, sizes, coords, new_data=new_data))


def _axis_names(
    group: str,
    site: str,
    shape: tuple[int, ...],
    names: Sequence[str | None],
    *,
    cut: bool,
) -> tuple[str, ...]:
    """Name the axes of one array."""
    if len(names) > len(shape) and not cut:
        raise ShapeError(
            "More dimension names than axes",
            f"group {group!r}, site {site!r}",
            f"{len(names)} names {tuple(names)} for an array of shape {shape}",
            f"at most {len(shape)} names",
            "Name only the axes that come after chain and draw.",
        )
    padded = [*names, *[None] * len(shape)][: len(shape)]
    chosen = tuple(
        f"{site}_dim_{axis}" if name is None else storable(name)
        for axis, name in enumerate(padded)
    )
    if len(set(chosen)) < len(chosen):
        raise ShapeError(
            "A dimension name is used twice",
            f"group {group!r}, site {site!r}",
            chosen,
            "different names for different axes",
            "Rename one of them, or give None for ArviZ's default name.",
        )
    return chosen


def _labels(
    group: str,
    sizes: Mapping[str, int],
    coords: Mapping[str, Sequence[object] | np.ndarray],
    *,
    new_data: bool,
) -> dict[str, np.ndarray]:
    """Collect the labels of the axes in use, integers where none are given."""
    found = {storable(name): np.asarray(values) for name, values in coords.items()}
    labels = {}
    for name, size in sizes.items():
        values = found.get(name)
        if values is not None and values.shape != (size,) and not new_data:
            raise ShapeError(
                f"The labels of dimension {name!r} do not fit",
                f"group {group!r}",
                f"labels of shape {values.shape}",
                f"shape {(size,)}",
                "Give one label per entry in `coords`.",
            )
        fits = values is not None and values.shape == (size,)
        labels[name] = values if fits else np.arange(size)
    return labels


def plain_facts(attrs: Mapping[str, object]) -> dict[str, str | int | float]:
    """Turn facts into what a NetCDF file can hold and gives back unchanged.

    Args:
        attrs: texts and numbers by name.

    Returns:
        The same, without NumPy's types, truth values and integers beyond 64 bits.

    Raises:
        ConfigurationError: neither a text nor a number.
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
        if isinstance(value, int):
            value = int(value)  # True and False too
            value = value if -(2**63) <= value < 2**63 else str(value)
        facts[name] = value
    return facts
