"""A new store, built in a folder beside its path and moved there when complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo.errors import CheckpointError
from pyro_geo.io.store._folder import HEADER, refuse_occupied, unwritable
from pyro_geo.io.store._groups import Variable, make_data, make_sampled

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
    variables: Sequence[Variable],
    num_chains: int,
    data: Mapping[str, np.ndarray],
    labelled: tuple[Mapping[str, Any], Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Make the Zarr hierarchy of a run without draws.

    Args:
        folder: to make it in.
        header: facts of the store; planned draws, chunk and sample axes among them.
        variables: what the store keeps of each draw.
        num_chains: chains.
        data: observed data by name.
        labelled: names and labels of axes.
        facts: attributes of the posterior and of the statistics.
    """
    import zarr

    root = zarr.create_group(folder, attributes={HEADER: dict(header)}, overwrite=True)
    chain, draw = header["sample_dims"]
    make_sampled(
        root,
        variables,
        num_chains,
        header["planned_draws"],
        header["chunk"],
        labelled,
        facts,
        (chain, draw),
    )
    if data:
        make_data(root, data, labelled)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
