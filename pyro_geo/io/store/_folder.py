"""The folder of a store: its root metadata, its lock, and the errors it can have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pyro_geo
from pyro_geo.errors import CheckpointError, explain
from pyro_geo.io.store._metadata import FORMAT, HEADER, Mismatch, check_root, parse
from pyro_geo.io.store._npz import unpack_arrays

if TYPE_CHECKING:
    import filelock

__all__ = [
    "LARGEST_ROOT",
    "check_version",
    "damaged",
    "digest_of",
    "load_arrays",
    "read_root",
    "refuse_links",
    "refuse_occupied",
    "take",
    "unwritable",
]

LARGEST_ROOT = 1 << 28  # bytes of metadata, of some 100,000 sites
_LOCK = ".lock"


def read_root(path: Path) -> dict[str, Any]:
    """Read the root metadata of a store of ours.

    Args:
        path: the folder.

    Returns:
        Content of `zarr.json`, checked.

    Raises:
        CheckpointError: it is not there, not ours, of another version, or damaged.
    """
    file = path / "zarr.json"
    try:
        refuse_links(path)
        size = file.stat().st_size
        if size > LARGEST_ROOT:
            raise CheckpointError(damaged(file, f"{size:,} bytes of metadata"))
        root = parse(file.read_bytes())
        header = root["attributes"][HEADER]
        if isinstance(header["num_draws"], int):
            return _checked(path, root)
        found = "metadata without draws"
    except FileNotFoundError:
        found = "no zarr.json" if path.exists() else "nothing there"
    except NotADirectoryError:
        found = "a file"
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as reason:
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


def _checked(path: Path, root: dict[str, Any]) -> dict[str, Any]:
    try:
        check_root(root)
    except Mismatch as reason:
        file = path / "zarr.json"
        check_version(path, root)
        raise CheckpointError(
            "the store is damaged",
            where=f"file {file}, {reason.where}",
            found=reason.found,
            expected=reason.expected,
            todo="Restore the folder from a copy; nothing was changed.",
        ) from reason
    return root


def check_version(path: Path, root: Mapping[str, Any]) -> None:
    """Refuse the store of another version.

    Args:
        path: the folder.
        root: content of its root `zarr.json`.

    Raises:
        CheckpointError: it is.
    """
    header = root["attributes"][HEADER]
    found = (header.get("format"), header.get("version"))
    expected = (FORMAT, pyro_geo.__version__)
    if found != expected:
        raise CheckpointError(
            "the store is of another version",
            where=f"store {path}",
            found=f"format {found[0]!r:.100}, pyro_geo {found[1]!s:.100}",
            expected=f"format {expected[0]}, pyro_geo {expected[1]}",
            todo="Go on with the version that began it; arviz.from_zarr reads it too.",
        )


def refuse_links(path: Path) -> None:
    """Refuse a folder that reaches outside itself, or holds more than files.

    Args:
        path: the folder; it may itself be reached by a link.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: there is a link or a device in it.
    """
    folders: list[str | Path] = [path]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except FileNotFoundError:
            if folders:
                continue  # a writer has removed it meanwhile
            raise
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    if not os.path.lexists(entry.path):
                        continue  # a file of a writer, in its place by now
                    kind = (
                        "a link" if entry.is_symlink() else "something that is no file"
                    )
                    raise CheckpointError(damaged(Path(entry.path), kind))


def take(path: Path) -> filelock.FileLock:
    """Take the lock of a store, or refuse where another process has it."""
    import filelock

    file = path / _LOCK
    lock = filelock.FileLock(file, timeout=0, is_singleton=False)
    try:
        found = file.stat() if file.exists() else None
        if found is not None and found.st_nlink > 1 and found.st_size:
            # taking a lock empties its file, which is another's under a second name
            raise CheckpointError(damaged(file, "a lock with content"))
        lock.acquire()
    except filelock.Timeout:
        raise CheckpointError(
            "another process writes to the store",
            where=f"store {path}",
            found="a lock that is held",
            expected="one writer",
            todo="Wait for the other run, or choose another path.",
        ) from None
    except CheckpointError:
        raise
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


def load_arrays(file: Path, expected: str) -> dict[str, np.ndarray]:
    """Load the arrays of a state; nothing in the file can execute code.

    Args:
        file: of NumPy's format `npz`.
        expected: its digest.

    Returns:
        Array by name.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        content = file.read_bytes()
        if digest_of(content) == expected:
            return unpack_arrays(content)
    except (OSError, ValueError, MemoryError) as reason:
        raise CheckpointError(
            damaged(file, f"{type(reason).__name__}: {reason}")
        ) from reason
    raise CheckpointError(damaged(file, "content that is not what was committed"))


def digest_of(content: bytes | memoryview) -> str:
    """Sum up the content of a file."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
