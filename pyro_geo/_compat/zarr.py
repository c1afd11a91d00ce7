"""What we use of zarr's own format of a folder, seen with zarr 3.1.6 and 3.4.2.

zarr creates all arrays and reads them back. We write their chunk files ourselves and
replace the consolidated metadata in one step. The Zarr specification fixes the files of
an array; how the metadata of all nodes stand in the root is zarr-python's convention.
`tests/compat/test_zarr.py` fails when either changes, and `pyproject.toml` bounds zarr
from above.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

__all__ = [
    "DATA_TYPES",
    "array_node",
    "axes_of",
    "canonical",
    "checksum",
    "checksum_codec",
    "chunk_file",
    "chunk_shape_of",
    "consolidate",
    "dtype_of",
    "node_file",
]

_METADATA = "zarr.json"  # of a group or an array
DATA_TYPES = (
    *("bool", "float16", "float32", "float64", "complex64", "complex128"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""Types of numbers that a store can hold."""
_CONSOLIDATED = {"kind": "inline", "must_understand": False}


def consolidate(path: Path, groups: Iterable[str] | None = None) -> dict[str, Any]:
    """Collect the metadata of the nodes of a store, as that of its root holds them.

    Args:
        path: folder of the root group.
        groups: to collect; all of them if None.

    Returns:
        Content for the root's metadata file. Readers that open the store with
        `consolidated=True` read nothing else.
    """
    root = json.loads((path / _METADATA).read_bytes())
    folders = [path] if groups is None else [path / group for group in groups]
    nodes = {
        file.parent.relative_to(path).as_posix(): canonical(
            json.loads(file.read_bytes())
        )
        for folder in folders
        for file in sorted(folder.rglob(_METADATA))
        if file.parent != path
    }
    root["consolidated_metadata"] = {**_CONSOLIDATED, "metadata": nodes}
    return root


def array_node(
    shape: Sequence[int],
    chunk: Sequence[int],
    data_type: str,
    dims: Sequence[str],
) -> dict[str, Any]:
    """Describe an array as zarr does: uncompressed, each chunk with its checksum.

    Args:
        shape: of the array.
        chunk: shape of its chunks.
        data_type: one of :data:`DATA_TYPES`.
        dims: names of the axes.

    Returns:
        Content of its metadata file.
    """
    dtype = np.dtype(data_type)
    order = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    empty = {"f": "NaN", "c": [0.0, 0.0], "b": False}
    return {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(chunk)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": empty.get(dtype.kind, 0),
        "codecs": [{"name": "bytes", **order}, {"name": "crc32c"}],
        "attributes": {},
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def canonical(node: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a node that zarr made as this version describes it.

    Args:
        node: metadata of an array or a group of ours.

    Returns:
        The same metadata, with what versions of zarr leave out or add as it is here.
    """
    if node["node_type"] == "array":
        chunk = chunk_shape_of(node)
        return array_node(node["shape"], chunk, node["data_type"], axes_of(node))
    return {
        "attributes": node["attributes"],
        "zarr_format": 3,
        "consolidated_metadata": {**_CONSOLIDATED, "metadata": {}},
        "node_type": "group",
    }


def node_file(folder: Path) -> Path:
    """Return the file of a node's own metadata, beside that in the root."""
    return folder / _METADATA


def checksum_codec() -> Any:
    """Return the codec that adds a checksum to each chunk and compares it."""
    from zarr.codecs import Crc32cCodec

    return Crc32cCodec()


def checksum(content: bytes | memoryview) -> bytes:
    """Return what that codec adds to the content of a chunk."""
    # of the buffers that are not copied it takes an array alone, as zarr gives it
    array: Any = np.frombuffer(content, np.uint8)
    return google_crc32c.value(array).to_bytes(4, "little")


def chunk_shape_of(node: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of an array's chunks."""
    return tuple(node["chunk_grid"]["configuration"]["chunk_shape"])


def axes_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of an array's axes."""
    return tuple(node.get("dimension_names") or ())


def dtype_of(node: Mapping[str, Any]) -> np.dtype:
    """Return the type of an array's numbers as they stand in its files."""
    return np.dtype(str(node["data_type"])).newbyteorder("<")


def chunk_file(folder: Path, place: tuple[int, ...]) -> Path:
    """Return the file of one chunk: chunk `i, j` of an array is `c/i/j`."""
    return folder.joinpath("c", *map(str, place))
