"""A run's store, open for the one process that writes to it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

import pyro_geo
from pyro_geo._compat.zarr import consolidate, node_file
from pyro_geo.errors import CheckpointError
from pyro_geo.io.files import replace_file
from pyro_geo.io.names import SAMPLE_DIMS
from pyro_geo.io.store._committed import DOC, CommittedRun
from pyro_geo.io.store._create import building, make_root
from pyro_geo.io.store._folder import (
    LARGEST_ROOT,
    check_version,
    digest_of,
    read_root,
    take,
)
from pyro_geo.io.store._groups import (
    ATTRIBUTED,
    DRAW_CHUNK,
    Group,
    Variable,
    make_groups,
    sampled_groups,
)
from pyro_geo.io.store._metadata import CHECKSUM, FORMAT, HEADER, digest
from pyro_geo.io.store._npz import pack_arrays

if TYPE_CHECKING:
    import filelock

__all__ = ["RunStore", "Snapshot"]


class Snapshot(NamedTuple):
    """A state, as JSON and arrays.

    Attributes:
        doc: describes it; arrays go by name.
        arrays: those that no earlier commit holds, `"{commit}.{number}"`.
        commits: earlier ones that hold arrays it still needs.
    """

    doc: Any
    arrays: Mapping[str, np.ndarray]
    commits: frozenset[int]


class RunStore(CommittedRun):
    """The store of one run, open for writing; no other process can write to it.

    Args:
        path: the folder.
        root: content of its root `zarr.json`.
        lock: held until :meth:`close`.

    Example:
        >>> import tempfile
        >>> weights = Variable("posterior", "w", (3,), np.dtype(float))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = RunStore.create(
        ...         f"{folder}/run.zarr",
        ...         [weights],
        ...         num_chains=4,
        ...         num_draws=100,
        ...         chunk=(4, 50),
        ...     )
        ...     store.write("posterior", "w", 0, 0, np.ones((4, 50, 3)))
        ...     store.commit(50, Snapshot({"step": 1}, {}, frozenset()))
        ...     store.close()
        ...     store = RunStore.open(f"{folder}/run.zarr")
        ...     print(store.num_draws, store.load()[0])
        ...     store.close()
        50 {'step': 1}
    """

    def __init__(
        self, path: Path, root: dict[str, Any], lock: filelock.FileLock
    ) -> None:
        super().__init__(path, root)
        self._lock: filelock.FileLock | None = lock

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        variables: Sequence[Variable],
        *,
        num_chains: int,
        num_draws: int,
        chunk: tuple[int, int],
        state: Snapshot | None = None,
        data: Mapping[str, np.ndarray] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
        coords: Mapping[str, Sequence[object] | np.ndarray] | None = None,
        header: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        sample_dims: tuple[str, str] = SAMPLE_DIMS,
    ) -> Self:
        """Make a store without draws; it appears at its path complete or not at all.

        Raises :class:`~pyro_geo.errors.CheckpointError` where there is something at the
        path, or no place for it.

        Args:
            path: the folder; it must not exist, or be empty.
            variables: what it will keep of each draw.
            num_chains: chains.
            num_draws: draws of each chain that are planned.
            chunk: chains and draws in one chunk.
            state: what the run begins from; the first commit.
            data: observed data by name.
            dims: names of axes, as in :func:`~pyro_geo.io.arviz.to_arviz`.
            coords: labels of axes, likewise.
            header: what else the run needs to continue; JSON.
            facts: attributes of the posterior and of the statistics.
            sample_dims: names of the two leading axes; the store grows along the
                second.

        Returns:
            The store, open.
        """
        path = Path(path)
        attributes = {
            "format": FORMAT,
            "version": pyro_geo.__version__,
            "commit": -1,
            "num_draws": 0,
            "planned_draws": num_draws,
            "chunk": chunk,
            "finished": False,
            "sample_dims": list(sample_dims),
            "states": {},
            **(header or {}),
        }
        dims = dims or {}
        sizes = num_chains, num_draws
        groups = sampled_groups(variables, sizes, dims, sample_dims)
        if data:
            arrays = {name: np.asarray(array) for name, array in data.items()}
            groups["observed_data"] = Group(arrays, dict(dims))
        with building(path) as part:
            names = make_root(part, attributes, groups, dims, coords or {}, facts or {})
            lock = take(part)
            store = cls(part, consolidate(part), lock)
            store.header["names"] = names._asdict()
            store._number_draws(num_draws)
            store.commit(0, state or Snapshot(None, {}, frozenset()))
        return cls(path, store._root, lock)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store to continue its run.

        Args:
            path: the folder.

        Returns:
            The store, open.

        Raises:
            CheckpointError: it is not there, is no store of ours, is of another
                version, is damaged, or another process writes to it.
        """
        path = Path(path)
        read_root(path)
        lock = take(path)
        store = cls(path, read_root(path), lock)  # read again under the lock
        try:
            check_version(path, store._root)
            store.check()
        except CheckpointError:
            store.close()
            raise
        return store

    # -- writing -------------------------------------------------------------------

    def write(
        self, group: str, name: str, chain: int, draw: int, values: np.ndarray
    ) -> None:
        """Write draws that do not count before the next commit.

        Args:
            group: of ArviZ.
            name: of a variable.
            chain: index of the first chain.
            draw: index of the first draw.
            values: `(chains, draws, *shape)`.
        """
        start = (chain, draw, *[0] * (values.ndim - 2))
        self._arrays[self._key(group, name)].write(start, values)

    def commit(
        self,
        num_draws: int,
        state: Snapshot,
        *,
        facts: Mapping[str, Any] | None = None,
        finished: bool = False,
    ) -> None:
        """Make everything written so far count, in one step.

        Args:
            num_draws: draws of each chain that are finished.
            state: what the run continues from.
            facts: attributes of the posterior and of the statistics that changed.
            finished: whether the run is complete.
        """
        commit = self.commits
        doc = {"doc": state.doc, "commits": sorted(state.commits)}
        # The state first, the root last: until the root is replaced readers find the
        # commit before, with its own state.
        text = np.frombuffer(json.dumps(doc).encode(), np.uint8)
        content = pack_arrays({DOC: text, **state.arrays})
        replace_file(self._state(commit), content)
        # the old header stays what it is if the replacement fails
        root = dict(self._root)
        header = self.header | {
            "commit": commit,
            "num_draws": num_draws,
            "finished": finished,
            "states": {
                **{str(k): self.header["states"][str(k)] for k in state.commits},
                str(commit): digest_of(content),
            },
        }
        root["attributes"] = {**root["attributes"], HEADER: header}
        before, self._root = self._root, root
        try:
            self._set_sizes(num_draws, facts or {})
            self._write_root()
        except BaseException:
            self._root = before
            raise
        # only now nothing needs the states of earlier commits
        self._forget({commit, *state.commits})

    def add(
        self,
        variables: Sequence[Variable],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Make room for variables in a group that is not there yet.

        They can be written at once, and be read from the next commit on.

        Args:
            variables: of groups that the store does not have.
            facts: attributes of their group.
        """
        import zarr

        planned = self.header["planned_draws"]
        chain, draw = self.header["chunk"]
        sizes = self.num_chains, planned
        made = sampled_groups(variables, sizes, {}, self.sample_dims)
        root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        names = make_groups(root, made, {}, {}, (chain, draw), facts or {})
        nodes = consolidate(self.path, made)["consolidated_metadata"]["metadata"]
        self._metadata.update(nodes)
        for kind, found in names._asdict().items():
            self.header["names"][kind].update(found)
        self._set_arrays()
        self._number_draws(planned)
        self._set_sizes(self.num_draws)

    def plan(self, num_draws: int) -> None:
        """Make room for another number of draws; the committed ones stay as they are.

        Args:
            num_draws: planned draws of each chain.
        """
        draw = self.sample_dims[1]
        for key, array in self._arrays.items():
            if draw in array.dims:
                node = self._sized(key, num_draws)
                content = json.dumps(node).encode()
                replace_file(node_file(self.path / key), content)
        self._number_draws(num_draws)
        self.header["planned_draws"] = num_draws

    def close(self) -> None:
        """Release the lock, so that others can write."""
        if self._lock is not None:
            self._lock.release()

    def __getstate__(self) -> dict[str, Any]:
        # a copy, as workers get one, can read but not write
        return {**self.__dict__, "_lock": None}

    # -- inside --------------------------------------------------------------------

    def _set_sizes(
        self, num_draws: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write the number of committed draws into a copy of the metadata."""
        metadata = {}
        for key, node in self._metadata.items():
            if key in self._arrays:
                node = self._sized(key, num_draws)
            elif key in ATTRIBUTED and facts:
                node = {**node, "attributes": {**node["attributes"], **facts}}
            metadata[key] = node
        consolidated = {**self._root["consolidated_metadata"], "metadata": metadata}
        self._root["consolidated_metadata"] = consolidated

    def _sized(self, key: str, num_draws: int) -> dict[str, Any]:
        """Metadata of an array with another number of draws."""
        node, dims = self._metadata[key], self._arrays[key].dims
        draw = self.sample_dims[1]
        sizes = zip(dims, node["shape"], strict=True)
        shape = [num_draws if name == draw else size for name, size in sizes]
        return {**node, "shape": shape}

    def _write_root(self) -> None:
        attributes = {**self._root["attributes"], CHECKSUM: digest(self._root)}
        self._root = {**self._root, "attributes": attributes}
        content = json.dumps(self._root).encode()
        if len(content) > LARGEST_ROOT:
            raise CheckpointError(
                "the store has too many sites",
                where=f"store {self.path}",
                found=f"{len(content):,} bytes of metadata",
                expected=f"at most {LARGEST_ROOT:,}",
                todo="Keep fewer sites (keep=), or take several in one.",
            )
        replace_file(self.path / "zarr.json", content)

    def _number_draws(self, num_draws: int) -> None:
        """Write the numbers of all planned draws, in complete chunks."""
        # a commit then changes the length of the axis alone, and no chunk file
        numbers = np.arange(-(-num_draws // DRAW_CHUNK) * DRAW_CHUNK)
        for array in self._arrays.values():
            if array.dims == (self.sample_dims[1],):
                array.write((0,), numbers)

    def _forget(self, commits: Iterable[int]) -> None:
        """Remove states that nothing needs any more."""
        needed = {self._state(commit).name for commit in commits}
        for file in self._state(0).parent.iterdir():
            if file.name not in needed and file.is_file():
                file.unlink(missing_ok=True)
