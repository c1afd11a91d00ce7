"""A new store, built in a folder beside its path and moved there when complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_geo.errors import CheckpointError
from pyro_geo.io.names import Coords, Dims
from pyro_geo.io.store._folder import refuse_occupied, unwritable
from pyro_geo.io.store._groups import Group, Names, make_groups
from pyro_geo.io.store._metadata import HEADER

__all__ = ["building", "make_root"]


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """Make a folder to build in; move it to the path at the end, or remove it.

    Args:
        path: where the folder goes; it must not exist, or be empty.

    Yields:
        The folder to build in.

    Raises:
        CheckpointError: there is something at the path, or no place for it.
    """
    refuse_occupied(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # on the same disk as the path, so that moving it is one step
        part = Path(tempfile.mkdtemp(".part", f".{path.name}.", path.parent))
    except OSError as reason:
        raise CheckpointError(unwritable(path, reason)) from reason
    try:
        yield part
        part.chmod(
            0o777 & ~_umask()
        )  # a temporary folder is readable by its owner alone
        refuse_occupied(path)  # again: it may have appeared meanwhile
        part.replace(path)
    except BaseException as reason:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(reason, OSError) and not isinstance(reason, CheckpointError):
            raise CheckpointError(unwritable(path, reason)) from reason
        raise


def make_root(
    folder: Path,
    header: Mapping[str, Any],
    groups: Mapping[str, Group],
    dims: Dims,
    coords: Coords,
    facts: Mapping[str, Any],
) -> Names:
    """Make the Zarr hierarchy of a run without draws.

    Args:
        folder: to make it in.
        header: facts of the store; the chunk is among them.
        groups: what it holds.
        dims: site to names of axes.
        coords: labels of axes.
        facts: attributes of the posterior and of the statistics.

    Returns:
        The names of arrays and folders.
    """
    import zarr

    root = zarr.create_group(folder, attributes={HEADER: dict(header)}, overwrite=True)
    return make_groups(root, groups, dims, coords, header["chunk"], facts)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
