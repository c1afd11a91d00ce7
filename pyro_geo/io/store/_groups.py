"""The groups of a store and the shapes of their arrays and chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_geo.io.names import SAMPLE_DIMS, Labels, label_group, storable

__all__ = [
    "ATTRIBUTED",
    "DRAW_CHUNK",
    "Variable",
    "make_data",
    "make_sampled",
]

DRAW_CHUNK = 1024  # of the coordinate that counts draws
_CHUNK_BYTES = 1 << 24  # of the largest chunk of draws
ATTRIBUTED = ("posterior", "sample_stats", "stages")


class Variable(NamedTuple):
    """What a store keeps of each draw.

    Attributes:
        group: of ArviZ.
        name: within the group.
        shape: of one draw.
        dtype: of its numbers.
    """

    group: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def make_sampled(
    root: Any,
    variables: Sequence[Variable],
    num_chains: int,
    num_draws: int,
    chunk: tuple[int, int],
    labelled: tuple[Mapping[str, Any], Mapping[str, Any]],
    facts: Mapping[str, Any],
    sample_dims: tuple[str, str] = SAMPLE_DIMS,
) -> None:
    """Make groups of arrays of draws, their metadata by zarr."""
    taken = tuple({*SAMPLE_DIMS, *sample_dims})
    groups: dict[str, dict[str, np.ndarray]] = {}
    for variable in variables:
        shape = (num_chains, num_draws, *variable.shape)
        # a view of one number: arrays of any size are described without memory
        empty = np.broadcast_to(np.zeros((), variable.dtype), shape)
        name = storable(variable.name, taken)
        groups.setdefault(variable.group, {})[name] = empty
    for name, arrays in groups.items():
        labels = _labels(name, arrays, labelled, sample_dims)
        attributes = dict(facts) if name in ATTRIBUTED else {}
        group = root.create_group(name, attributes=attributes, overwrite=True)
        for key, array in arrays.items():
            event = _event_chunk(array.shape[2:], array.dtype.itemsize, chunk)
            _make_array(group, key, array, labels.dims[key], (*chunk, *event))
        chain, draw = sample_dims
        _make_array(group, draw, np.arange(num_draws), (draw,), (DRAW_CHUNK,))
        for key, values in {chain: np.arange(num_chains), **labels.coords}.items():
            _make_array(group, key, values, (key,), values.shape)[...] = values


def make_data(
    root: Any,
    data: Mapping[str, np.ndarray],
    labelled: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Make the group of observed data, filled."""
    arrays = {storable(name): np.asarray(array) for name, array in data.items()}
    labels = _labels("observed_data", arrays, labelled, ())
    group = root.create_group("observed_data")
    for key, array in arrays.items():
        _make_array(group, key, array, labels.dims[key], array.shape)[...] = array
    for key, values in labels.coords.items():
        _make_array(group, key, values, (key,), values.shape)[...] = values


def _labels(
    group: str,
    arrays: Mapping[str, np.ndarray],
    labelled: tuple[Mapping[str, Any], Mapping[str, Any]],
    lead: tuple[str, ...],
) -> Labels:
    dims, coords = labelled
    taken = tuple({*SAMPLE_DIMS, *lead})
    stored = {storable(site, taken): names for site, names in dims.items()}
    return label_group(group, arrays, stored, coords, lead=lead, taken=taken)


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
        compressors=None,
        fill_value=np.nan if array.dtype.kind == "f" else 0,
        dimension_names=dims,
        config={"write_empty_chunks": True},
    )


def _event_chunk(
    event: tuple[int, ...], itemsize: int, chunk: tuple[int, int]
) -> tuple[int, ...]:
    """Cut large draws so that a chunk can be read alone."""
    # the last axes stay whole as long as they fit, as chunks are stored in C order
    most = max(1, _CHUNK_BYTES // (itemsize * chunk[0] * chunk[1]))
    sizes = list(event)
    for axis, size in enumerate(sizes):
        rest = int(np.prod(sizes[axis + 1 :], dtype=int))
        sizes[axis] = min(size, max(1, most // max(1, rest)))
    return tuple(sizes)
