"""Dimension names and coordinates of one group of arrays."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pyro_geo.errors import ConfigurationError, ShapeError

__all__ = [
    "PARTICLE_DIMS",
    "SAMPLE_DIMS",
    "STAGE_DIMS",
    "Labels",
    "label_group",
    "plain_facts",
    "storable",
]

SAMPLE_DIMS = ("chain", "draw")
# Also taken where draws have weights: axes of raw particles and of an annealed path.
PARTICLE_DIMS = ("particle", "draw")
STAGE_DIMS = ("particle", "stage")


class Labels(NamedTuple):
    """The named axes of one group."""

    dims: dict[str, tuple[str, ...]]
    coords: dict[str, np.ndarray]


def storable(name: str, taken: Sequence[str] = SAMPLE_DIMS) -> str:
    """Give the name under which a site or a dimension can be stored.

    A slash separates groups in NetCDF files and in a `DataTree`, so it cannot be part
    of a name; Pyro's scopes put one there. Names of sample axes are taken.

    Args:
        name: a site's or a dimension's name.
        taken: names that cannot be used.

    Returns:
        The name itself wherever it can be kept.

    Example:
        >>> storable("encoder/weight"), storable("draw"), storable("layer.bias")
        ('encoder.weight', 'draw_', 'layer.bias')
    """
    name = name.replace("/", ".")
    return f"{name}_" if name in taken else name


def label_group(
    group: str,
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, Sequence[str | None]],
    coords: Mapping[str, Sequence[object] | np.ndarray],
    *,
    lead: tuple[str, ...] = (),
    taken: Sequence[str] = SAMPLE_DIMS,
    cut: bool = False,
    new_data: bool = False,
) -> Labels:
    """Name every axis of a group's arrays.

    Args:
        group: the group's name, for messages.
        arrays: the group's arrays.
        dims: names of the axes after the leading ones, from the left; unnamed ones get
            ArviZ's default names.
        coords: labels along a named axis.
        lead: names of the leading axes, such as chain and draw.
        taken: names that neither a site nor an axis can have.
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
    named: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for site, array in arrays.items():
        first = lead[: array.ndim]  # statistics may lack the later sample axes
        shape = array.shape[len(first) :]
        wanted = [n if n is None else storable(n, taken) for n in dims.get(site, ())]
        names = _axis_names(group, site, shape, wanted, cut=cut)
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
        named[site] = (*first, *names)
    stored = {storable(n, taken): np.asarray(values) for n, values in coords.items()}
    return Labels(named, _labels(group, sizes, stored, new_data=new_data))


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
    # names go from the left; axes without one get ArviZ's default name
    padded = [*names, *[None] * len(shape)][: len(shape)]
    chosen = tuple(
        f"{site}_dim_{axis}" if name is None else name
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
    coords: Mapping[str, np.ndarray],
    *,
    new_data: bool,
) -> dict[str, np.ndarray]:
    """Collect the labels of the axes in use, integers where none are given."""
    labels = {}
    for name, size in sizes.items():
        values = coords.get(name)
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
