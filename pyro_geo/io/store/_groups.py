"""The groups of a store and the shapes of their arrays and chunks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_geo._compat.zarr import checksum_codec
from pyro_geo.io.names import (
    SAMPLE_DIMS,
    STAGE_DIMS,
    Coords,
    Dims,
    Labels,
    label_group,
    name_groups,
)
from pyro_geo.io.naming import RENAMED, WEIGHTED_DIMS, folder_names

__all__ = [
    "ATTRIBUTED",
    "DRAW_CHUNK",
    "Group",
    "Names",
    "Variable",
    "event_chunk",
    "fill_value",
    "make_groups",
    "sampled_groups",
]

DRAW_CHUNK = 1024  # of the coordinate that counts draws
_CHUNK_BYTES = 1 << 24  # of the largest chunk of draws
ATTRIBUTED = ("filtered", "posterior", "sample_stats", "stages")


class Names(NamedTuple):
    """Names of arrays and of their folders.

    Attributes:
        folders: group to true name of an array to its folder, those of axes left out.
        shown: group to folder of an array or of an axis to its name in ArviZ data.
    """

    folders: dict[str, dict[str, str]]
    shown: dict[str, dict[str, str]]


class Variable(NamedTuple):
    """What a store keeps of each draw.

    Attributes:
        group: of ArviZ.
        name: within the group.
        shape: of one draw.
        dtype: of its numbers.
        dims: names of its axes, None for those of the site of this name.
    """

    group: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str | None, ...] | None = None


class Group(NamedTuple):
    """A group to be made.

    Attributes:
        arrays: under their true names; a view of one number where they are of draws.
        dims: array to names of its axes.
        lead: names of the leading axes.
    """

    arrays: dict[str, np.ndarray]
    dims: dict[str, Sequence[str | None]]
    lead: tuple[str, ...] = ()


def sampled_groups(
    variables: Sequence[Variable],
    sizes: tuple[int, int],
    dims: Dims,
    sample_dims: tuple[str, str],
) -> dict[str, Group]:
    """Describe groups of draws.

    Args:
        variables: what is kept of each draw.
        sizes: chains and draws.
        dims: site to names of the axes of one draw.
        sample_dims: names of the two leading axes.

    Returns:
        The groups by name.
    """
    groups: dict[str, Group] = {}
    for group, name, event, dtype, own in variables:
        made = groups.setdefault(group, Group({}, dict(dims), sample_dims))
        # a view of one number: arrays of any size are described without memory
        made.arrays[name] = np.broadcast_to(np.zeros((), dtype), (*sizes, *event))
        if own is not None:
            made.dims[name] = own
    return groups


def make_groups(
    root: Any,
    groups: Mapping[str, Group],
    dims: Dims,
    coords: Coords,
    chunk: tuple[int, int],
    facts: Mapping[str, Any],
) -> Names:
    """Make groups of arrays, their metadata by zarr; those of data are filled.

    Args:
        root: group of Zarr to make them in.
        groups: what to make.
        dims: site to names of axes, of sites that are in no group too.
        coords: labels of axes.
        chunk: chains and draws in one chunk.
        facts: attributes of draws and statistics.

    Returns:
        The names of arrays and folders.
    """
    leads = {name: group.lead for name, group in groups.items()}
    arrays = {name: group.arrays for name, group in groups.items()}
    taken = {*SAMPLE_DIMS, *(name for lead in leads.values() for name in lead)}
    if STAGE_DIMS in leads.values():
        taken |= {*WEIGHTED_DIMS}
    axes = {site: list(names) for site, names in dims.items()}
    for group in groups.values():
        for site, own in group.dims.items():
            axes[site] = [*axes.get(site, ()), *own]
    naming = name_groups(arrays, axes, leads, taken)
    names = Names({}, {})
    for name, group in groups.items():
        labels = label_group(
            name, group.arrays, naming[name], group.dims, coords, lead=group.lead
        )
        folders = folder_names([*labels.dims, *labels.coords], taken)
        folders |= {axis: axis for axis in group.lead}
        attributes = dict(facts) if name in ATTRIBUTED else {}
        if labels.renamed:
            attributes[RENAMED] = json.dumps(labels.renamed)
        made = root.create_group(name, attributes=attributes, overwrite=True)
        sites = naming[name].sites
        _fill_group(made, group, sites, labels, folders, chunk)
        found = {site: folders[sites[site]] for site in group.arrays}
        names.folders[name] = found
        names.shown[name] = {v: k for k, v in folders.items() if k != v}
    return names


def _fill_group(
    made: Any,
    group: Group,
    sites: Mapping[str, str],
    labels: Labels,
    folders: Mapping[str, str],
    chunk: tuple[int, int],
) -> None:
    """Make the arrays of a group and its coordinates."""
    coordinates = dict(labels.coords)
    for site, array in group.arrays.items():
        axes = tuple(folders[axis] for axis in labels.dims[sites[site]])
        chunks = array.shape
        if group.lead:
            event = event_chunk(array.shape[2:], array.dtype.itemsize, chunk)
            chunks = (*chunk, *event)
        filled = _make_array(made, folders[sites[site]], array, axes, chunks)
        if not group.lead:
            filled[...] = array
    if group.lead:
        chain, draw = group.lead
        num_chains, num_draws = next(iter(group.arrays.values())).shape[:2]
        _make_array(made, draw, np.arange(num_draws), (draw,), (DRAW_CHUNK,))
        coordinates = {chain: np.arange(num_chains), **coordinates}
    for key, values in coordinates.items():
        folder = folders[key]
        _make_array(made, folder, values, (folder,), values.shape)[...] = values


def _make_array(
    group: Any,
    name: str,
    array: np.ndarray,
    dims: tuple[str, ...],
    chunks: tuple[int, ...],
) -> Any:
    return group.create_array(
        name,
        shape=array.shape,
        chunks=tuple(max(1, size) for size in chunks),
        dtype=array.dtype,
        compressors=checksum_codec(),
        fill_value=fill_value(array.dtype),
        dimension_names=dims,
        config={"write_empty_chunks": True},
    )


def fill_value(dtype: np.dtype) -> float:
    """What stands in an array where nothing was written."""
    return math.nan if dtype.kind == "f" else 0


def event_chunk(
    event: tuple[int, ...], itemsize: int, chunk: tuple[int, int]
) -> tuple[int, ...]:
    """Cut large draws so that a chunk can be read alone.

    Args:
        event: shape of one draw.
        itemsize: bytes of one number.
        chunk: chains and draws in one chunk.

    Returns:
        Shape of the part of a draw in one chunk.
    """
    # the last axes stay whole as long as they fit, as chunks are stored in C order
    most = max(1, _CHUNK_BYTES // (itemsize * chunk[0] * chunk[1]))
    sizes = list(event)
    for axis, size in enumerate(sizes):
        rest = int(np.prod(sizes[axis + 1 :], dtype=int))
        sizes[axis] = min(size, max(1, most // max(1, rest)))
    return tuple(sizes)
