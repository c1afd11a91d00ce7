"""Arrays and commits on their way to a store, in a thread of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore, Snapshot, Variable, Writer
from pyro_geo.ops.arrays import to_numpy

__all__ = ["StoreCommits", "StoredRecord", "numpy_dtype"]


class StoreCommits:
    """Write values of finished draws, and let the store count them.

    Work is queued and done in order while the run goes on. After the first failure
    nothing more is written, and the next commit raises it.

    Args:
        store: open for writing.
        unit: what the store calls a draw: `draw`, or `stage` of a path.
    """

    def __init__(self, store: RunStore, unit: str = "draw") -> None:
        self.store, self.unit = store, unit
        self.next_commit = store.commits
        """Number of the next commit, counting those under way."""
        self._writer = Writer()

    @property
    def failed(self) -> bool:
        """Whether the store can no longer be written."""
        return self._writer.failure is not None

    def plan(self, num_draws: int) -> None:
        """Make room for another number of draws than was planned.

        Args:
            num_draws: of each chain.
        """
        self._writer.submit(self.store.plan, num_draws)

    def add_statistics(self, types: Mapping[str, torch.dtype]) -> None:
        """Make room for statistics, whose types only the first block tells.

        Args:
            types: of each statistic.
        """
        if self.failed:
            return
        variables = [
            Variable("sample_stats", name, (), numpy_dtype(torch.empty(0, dtype=dtype)))
            for name, dtype in types.items()
        ]
        self._writer.submit(self.store.add, variables)
        self.flush()

    def write(
        self, groups: Mapping[str, Mapping[str, Tensor]], chain: int, draw: int
    ) -> None:
        """Write values of draws that the next commit counts.

        Args:
            groups: group to variable to values, `(chains, draws, *shape)`.
            chain: the first chain.
            draw: the first draw, after thinning.
        """
        if self.failed:
            return
        for group, values in groups.items():
            for name, value in values.items():
                array = to_numpy(value)
                where = group, name, chain, draw
                self._writer.submit(self.store.write, *where, array, size=array.nbytes)

    def commit(
        self,
        num_draws: int,
        state: Snapshot,
        facts: Mapping[str, Any],
        *,
        finished: bool = False,
        wait: bool = False,
    ) -> None:
        """Let the store count what was written, as soon as the disk allows.

        Args:
            num_draws: finished draws of each chain.
            state: where the run is.
            facts: attributes that changed.
            finished: whether the run is complete.
            wait: for the disk.

        Raises:
            CheckpointError: this commit, or one before it, cannot be written.
        """
        self._writer.submit(
            self.store.commit, num_draws, state, facts=dict(facts), finished=finished
        )
        self.next_commit += 1
        if wait:
            self.flush()
        if (failure := self._writer.failure) is not None:
            self.flush()
            raise CheckpointError(
                "the store cannot be written any more",
                where=f"store {self.store.path}",
                found=f"{type(failure).__name__}: {failure}",
                expected="a folder with room",
                todo=f"The store is good up to {self.unit} {self.store.num_draws}; "
                "free some space and call resume.",
            ) from failure

    def read(
        self, group: str, names: Sequence[str], draws: slice = slice(None)
    ) -> dict[str, np.ndarray]:
        """Read values back, those under way included.

        Args:
            group: of the variables.
            names: of variables.
            draws: which ones.

        Returns:
            Variable to `(chains, draws, *shape)`.
        """
        self.flush()
        return self.store.read(group, names, draws)

    def flush(self) -> None:
        """Wait for the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Wait for the disk and let the thread go; the store stays open."""
        self._writer.close()


class StoredRecord(ABC):
    """What a run has finished, in memory and in a store if there is one."""

    unit: str = "draw"
    """What the store calls one entry of its second axis."""

    def __init__(self) -> None:
        self.num_draws = 0
        """Entries of each chain that are finished."""
        self.commits: StoreCommits | None = None

    @property
    def store(self) -> RunStore | None:
        """Where the draws are stored, if they are."""
        return None if self.commits is None else self.commits.store

    def begin(self, store: RunStore) -> None:
        """Write to a store from now on.

        Args:
            store: of the same sites and statistics.
        """
        self.commits = StoreCommits(store, self.unit)

    @abstractmethod
    def load(self, store: RunStore) -> None:
        """Take over what a store has, and write to it from now on.

        Args:
            store: of the same sites and statistics.
        """

    def commit(
        self,
        state: Snapshot,
        facts: Mapping[str, Any],
        *,
        finished: bool = False,
        wait: bool = False,
    ) -> None:
        """Let the store count what is finished; see :meth:`StoreCommits.commit`.

        Args:
            state: where the run is.
            facts: attributes that changed.
            finished: whether the run is complete.
            wait: for the disk.
        """
        assert self.commits is not None
        self.commits.commit(self.num_draws, state, facts, finished=finished, wait=wait)

    def close(self) -> None:
        """Wait for the disk, and let other processes write to the store."""
        if self.commits is not None:
            self.commits.close()
            self.commits.store.close()


def numpy_dtype(value: Tensor) -> np.dtype:
    """The NumPy type of a tensor's numbers."""
    return to_numpy(value.new_empty(0)).dtype
