"""What a store holds at its last commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo.errors import CheckpointError
from pyro_geo.io.names import SAMPLE_DIMS, storable
from pyro_geo.io.store._array import ChunkedArray
from pyro_geo.io.store._folder import HEADER, damaged, load_arrays

__all__ = ["DOC", "CommittedRun"]

_STATES = ".state"
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
        """
        import zarr

        root: Any = zarr.open_group(self.path, mode="r", use_consolidated=True)
        return {
            name: np.asarray(root[self._key(group, name)][:, draws]) for name in names
        }

    def load(self) -> tuple[Any, dict[str, np.ndarray]]:
        """Load the state of the last commit; nothing in it can execute code.

        Returns:
            The document and the arrays it names. Where a file is damaged, a
            :class:`~pyro_geo.errors.CheckpointError` says which.

        """
        # arrays are stored once, by the commit in which they were new
        last = self.header["commit"]
        arrays = load_arrays(self._state(last))
        doc = json.loads(arrays.pop(DOC).tobytes())
        for commit in doc["commits"]:
            arrays |= load_arrays(self._state(commit))
        arrays.pop(DOC, None)
        return doc["doc"], arrays

    def check(self) -> None:
        """Make sure that every committed chunk is there.

        Raises:
            CheckpointError: a chunk is missing or has the wrong size.
        """
        for key, array in self._arrays.items():
            shape = tuple(self._metadata[key]["shape"])
            if (file := array.damaged(shape)) is not None:
                raise CheckpointError(damaged(file, "a missing or truncated chunk"))

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return group in self._metadata

    # -- inside --------------------------------------------------------------------

    def _key(self, group: str, name: str) -> str:
        return f"{group}/{storable(name, (*SAMPLE_DIMS, *self.sample_dims))}"

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
