"""What a store holds at its last commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo.errors import CheckpointError
from pyro_geo.io.store._array import ChunkedArray
from pyro_geo.io.store._folder import damaged, load_arrays
from pyro_geo.io.store._metadata import HEADER, parse

__all__ = ["DOC", "CommittedRun"]

_STATES = ".state"
_VERIFIED = 1 << 30  # bytes that are read to compare checksums when a store is opened
DOC = "doc"  # member of a state's file that describes the others


class CommittedRun:
    """The draws, the state and the header of a store, as last committed.

    Args:
        path: the folder.
        root: content of its root `zarr.json`.
    """

    def __init__(self, path: Path, root: dict[str, Any]) -> None:
        self.path = path
        self._root = root
        self._set_arrays()

    @property
    def bytes_per_draw(self) -> int:
        """Size of one draw of all chains."""
        return sum(
            array.dtype.itemsize
            * int(np.prod(self._metadata[key]["shape"][2:], dtype=int))
            * self._metadata[key]["shape"][0]
            for key, array in self._arrays.items()
            if array.dims[:2] == self.sample_dims
        )

    @property
    def header(self) -> dict[str, Any]:
        """Facts of the run that it needs to continue."""
        return self._root["attributes"][HEADER]

    @property
    def num_draws(self) -> int:
        """Draws of each chain that are committed."""
        return self.header["num_draws"]

    @property
    def sample_dims(self) -> tuple[str, str]:
        """Names of the two leading axes; the store grows along the second."""
        chain, draw = self.header["sample_dims"]
        return chain, draw

    @property
    def num_chains(self) -> int:
        """Chains of the run."""
        chain = self.sample_dims[0]
        return next(
            self._metadata[key]["shape"][0]
            for key, array in self._arrays.items()
            if array.dims == (chain,)
        )

    @property
    def commits(self) -> int:
        """Number that the next commit will have."""
        return self.header["commit"] + 1

    def read(
        self, group: str, names: Sequence[str], draws: slice = slice(None)
    ) -> dict[str, np.ndarray]:
        """Read committed draws of one group.

        Args:
            group: its name.
            names: of its variables.
            draws: which of them to read.

        Returns:
            Name to `(chains, draws, *shape)`.

        Raises:
            CheckpointError: a file is missing or damaged, or the store has no such
                variable.
        """
        import zarr

        root: Any = zarr.open_group(self.path, mode="r", use_consolidated=True)
        values = {}
        for name in names:
            key = self._key(group, name)
            try:
                values[name] = np.asarray(root[key][:, draws])
            except (OSError, ValueError, KeyError) as reason:
                found = f"{type(reason).__name__}: {reason}"
                raise CheckpointError(damaged(self.path / key, found)) from reason
        return values

    def load(self) -> tuple[Any, dict[str, np.ndarray]]:
        """Load the state of the last commit; nothing in it can execute code.

        Returns:
            The document and the arrays it names.

        Raises:
            CheckpointError: a file is missing or damaged; it says which.
        """
        # arrays are stored once, by the commit in which they were new
        last, states = self.header["commit"], self.header["states"]
        arrays: dict[str, np.ndarray] = {}
        docs = {}
        for commit in sorted(map(int, states)):
            own = load_arrays(self._state(commit), states[str(commit)])
            docs[commit] = own.pop(DOC, None)
            arrays |= own
        try:
            return parse(docs[last].tobytes())["doc"], arrays
        except (AttributeError, ValueError, KeyError, TypeError) as reason:
            found = f"{type(reason).__name__}: {reason}"
            raise CheckpointError(damaged(self._state(last), found)) from reason

    def check(self) -> None:
        """Make sure that every committed chunk is there, as it was written.

        Of very many draws the sizes of the files alone are compared; their checksums
        are when they are read. A :class:`~pyro_geo.errors.CheckpointError` names a
        chunk that is missing or damaged.
        """
        draw = self.sample_dims[1]
        shapes = {}
        for key, array in self._arrays.items():
            shapes[key] = tuple(self._metadata[key]["shape"])
            if array.dims == (draw,):  # numbers of all planned draws
                shapes[key] = (self.header["planned_draws"],)
        for key, shape in shapes.items():
            self._arrays[key].check(shape, content=False)
        size = sum(
            array.chunk_bytes * array.num_chunks(shapes[key])
            for key, array in self._arrays.items()
        )
        if size <= _VERIFIED:
            for key, shape in shapes.items():
                self._arrays[key].check(shape, content=True)

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return group in self._metadata

    # -- inside --------------------------------------------------------------------

    def _key(self, group: str, name: str) -> str:
        known = self.header["names"]["folders"].get(group, {})
        if name not in known:
            raise CheckpointError(
                "the store lacks an array",
                where=f"store {self.path}, group {group}",
                found=sorted(known),
                expected=f"{name!r} among them",
                todo="Read with the sites of the run that wrote it.",
            )
        return f"{group}/{known[name]}"

    @property
    def _metadata(self) -> dict[str, Any]:
        return self._root["consolidated_metadata"]["metadata"]

    def _set_arrays(self) -> None:
        self._arrays = {
            key: ChunkedArray(self.path / key, metadata)
            for key, metadata in self._metadata.items()
            if metadata["node_type"] == "array"
        }

    def _state(self, commit: int) -> Path:
        return self.path / _STATES / f"{commit}.npz"
