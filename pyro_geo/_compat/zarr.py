"""What we use of zarr's own format of a folder, seen with zarr 3.1.6 and 3.4.2.

zarr creates all arrays and reads them back. We write their chunk files ourselves and
replace the consolidated metadata in one step. The Zarr specification fixes the files of
an array; how the metadata of all nodes stand in the root is zarr-python's convention.
`tests/compat/test_zarr.py` fails when either changes, and `pyproject.toml` bounds zarr
from above.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "axes_of",
    "chunk_file",
    "chunk_shape_of",
    "consolidate",
    "dtype_of",
]

_METADATA = "zarr.json"  # of a group or an array


def consolidate(path: Path) -> dict[str, Any]:
    """Collect the metadata of all nodes of a store in that of its root.

    Args:
        path: folder of the root group.

    Returns:
        Content for the root's metadata file. Readers that open the store with
        `consolidated=True` read nothing else.
    """
    root = json.loads((path / _METADATA).read_bytes())
    nodes = {
        file.parent.relative_to(path).as_posix(): json.loads(file.read_bytes())
        for file in sorted(path.rglob(_METADATA))
        if file.parent != path
    }
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": nodes,
    }
    return root


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
