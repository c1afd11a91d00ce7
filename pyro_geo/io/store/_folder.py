"""The folder of a store: its root metadata, its lock, and the errors it can have."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from pyro_geo.errors import CheckpointError, explain

__all__ = [
    "HEADER",
    "damaged",
    "load_arrays",
    "read_root",
    "refuse_occupied",
    "take",
    "unwritable",
]

HEADER = "pyro_geo"  # of the root's attributes
_LOCK = ".lock"


def read_root(path: Path) -> dict[str, Any]:
    """Read the root metadata of a store of ours.

    Args:
        path: the folder.

    Returns:
        Content of `zarr.json`.

    Raises:
        CheckpointError: it is not there, not ours, or damaged.
    """
    file = path / "zarr.json"
    try:
        root = json.loads(file.read_bytes())
        header = root["attributes"][HEADER]
        nodes = root["consolidated_metadata"]["metadata"]
        if isinstance(header["num_draws"], int) and isinstance(nodes, dict):
            return root
        found = "metadata without draws"
    except FileNotFoundError:
        found = "no zarr.json" if path.exists() else "nothing there"
    except NotADirectoryError:
        found = "a file"
    except (ValueError, KeyError, TypeError) as reason:
        found = f"metadata of something else ({type(reason).__name__}: {reason})"
    except OSError as reason:
        found = str(reason)
    raise CheckpointError(
        "this is not the store of a run",
        where=f"store {path}",
        found=found,
        expected="a folder made by run with store=",
        todo="Check the path; nothing was changed.",
    )


def take(path: Path) -> filelock.FileLock:
    lock = filelock.FileLock(path / _LOCK, timeout=0, is_singleton=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise CheckpointError(
            "another process writes to the store",
            where=f"store {path}",
            found="a lock that is held",
            expected="one writer",
            todo="Wait for the other run, or choose another path.",
        ) from None
    except OSError as reason:
        raise CheckpointError(unwritable(path, reason)) from reason
    return lock


def refuse_occupied(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        return
    if not path.exists():
        return
    raise CheckpointError(
        "the store's path exists already",
        where=f"store {path}",
        found="a run" if (path / "zarr.json").exists() else "files",
        expected="a new path",
        todo="Call resume to continue a run, or choose another path.",
    )


def damaged(file: Path, found: str) -> str:
    return explain(
        "the store is damaged",
        where=f"file {file}",
        found=found,
        expected="the file as it was committed",
        todo="Restore the folder from a copy; nothing was changed.",
    )


def unwritable(path: Path, reason: OSError) -> str:
    return explain(
        "the store cannot be written",
        where=f"store {path}",
        found=f"{type(reason).__name__}: {reason}",
        expected="a folder with room",
        todo="Free some space or choose another path.",
    )


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a state; nothing in the file can execute code.

    Args:
        file: of NumPy's format `npz`.

    Returns:
        Array by name.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        # opened here: NumPy leaves what it cannot read open
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as reason:
        raise CheckpointError(
            damaged(file, f"{type(reason).__name__}: {reason}")
        ) from reason
