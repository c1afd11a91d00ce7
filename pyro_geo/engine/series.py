"""A filter over many series as a session sees it, and the steps it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.density import GraphSize, Rung
from pyro_geo.engine.commits import StoredRecord
from pyro_geo.io.store import RunStore, Variable

__all__ = [
    "BlockResult",
    "SeriesFilter",
    "SeriesRecord",
]

_ALL = slice(None)


class BlockResult(NamedTuple):
    """What a filter has made of a block of steps.

    Attributes:
        state: after the block.
        values: name to `(series, steps, *shape)`.
        rung: that it ran on.
    """

    state: Any
    values: dict[str, Tensor]
    rung: Rung


class SeriesFilter(Protocol):
    """A filter with its reports; a session runs it block by block.

    A block is a pure function of the state before it and of its reports, so that no
    result depends on where blocks end, or in which process one is made.
    """

    @property
    def variables(self) -> Sequence[Variable]:
        """What a step of a series leaves, the reports in the group `reports`."""
        ...

    @property
    def groups(self) -> Sequence[range]:
        """Series that run side by side."""
        ...

    @property
    def num_steps(self) -> int:
        """Reports of each series."""
        ...

    @property
    def state_type(self) -> Any:
        """Type of the state of a group, for a snapshot."""
        ...

    @property
    def notes(self) -> list[str]:
        """Steps down the ladder."""
        ...

    @property
    def build_seconds(self) -> Seconds:
        """Time that tracing and compiling have taken."""
        ...

    def graph_size(self) -> GraphSize:
        """Size of the graph of one step."""
        ...

    def begin(self, group: int) -> Any:
        """Make the state of a group before its first report."""
        ...

    def block(self, group: int, state: Any, steps: slice, rung: Rung) -> BlockResult:
        """Filter some steps of a group."""
        ...

    def reports(self, steps: slice) -> dict[str, Tensor]:
        """The reports of all series at some steps, name to `(series, steps, ...)`."""
        ...


class SeriesRecord(StoredRecord):
    """The finished steps of all series: in memory, in a store, or in both.

    Args:
        variables: what a step leaves.
        num_series: how many series.
        sample_dims: what a series is called, and `time`.
        limit: bytes held in memory where there is a store.
    """

    unit = "step"

    def __init__(
        self,
        variables: Sequence[Variable],
        num_series: int,
        sample_dims: tuple[str, str],
        limit: int,
    ) -> None:
        super().__init__()
        self.variables = {variable.name: variable for variable in variables}
        self.num_series, self.sample_dims, self.limit = num_series, sample_dims, limit
        self._blocks: list[dict[str, Tensor]] | None = []  # None: in the store alone
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    @property
    def num_steps(self) -> int:
        """Finished steps of each series."""
        return self.num_draws

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Value to its shape at one step of one series."""
        return {name: torch.Size(v.shape) for name, v in self.variables.items()}

    @property
    def folder(self) -> Path | None:
        """The store that alone holds the values; None where they are in memory."""
        return self.store.path if self._blocks is None and self.store else None

    def add(self, series: range, first: int, values: Mapping[str, Tensor]) -> None:
        """Add a block of a group; the next closed round counts it.

        Args:
            series: of the group.
            first: step of the block.
            values: name to `(series, steps, *shape)`.
        """
        if self.commits is not None:
            groups: dict[str, dict[str, Tensor]] = {}
            for name, value in values.items():
                groups.setdefault(self.variables[name].group, {})[name] = value
            self.commits.write(groups, series.start, first)
        if self._blocks is not None:
            self._parts[series.start] = dict(values)
            self._bytes += sum(x.numel() * x.element_size() for x in values.values())

    def close_round(self, steps: int) -> None:
        """Count the blocks that were added since the last call.

        Args:
            steps: that are finished.
        """
        parts = [self._parts[first] for first in sorted(self._parts)]
        self._parts = {}
        self.num_draws = steps
        if self._blocks is None or not parts:
            return
        self._blocks.append({n: torch.cat([p[n] for p in parts]) for n in parts[0]})
        if self.commits is not None and self._bytes > self.limit:
            self.commits.flush()
            if not self.commits.failed:
                self._blocks = None

    def drop_round(self) -> None:
        """Forget the blocks of a round that was cut short."""
        self._parts = {}

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Begin with steps that an earlier run has made.

        Args:
            values: name to `(series, steps, *shape)`.
        """
        self._blocks = [dict(values)]
        self.num_draws = next(iter(values.values())).shape[1]

    def load(self, store: RunStore) -> None:
        """Take over the steps of a store, and write to it from now on.

        Args:
            store: of the same series.
        """
        self.begin(store)
        self.num_draws = store.num_draws
        self._bytes = store.bytes_per_draw * self.num_draws
        if self._bytes > self.limit:
            self._blocks = None
        elif self.num_draws:
            self._blocks = [self._stored(list(self.variables), _ALL)]

    def read(self, names: Sequence[str], steps: slice = _ALL) -> dict[str, Tensor]:
        """Read values of finished steps.

        Args:
            names: which.
            steps: of which steps.

        Returns:
            Name to `(series, time, *shape)`.
        """
        if self._blocks is None:
            return self._stored(names, steps)
        if len(self._blocks) > 1:  # once, not at every question
            joined = {
                n: torch.cat([block[n] for block in self._blocks], 1)
                for n in self._blocks[0]
            }
            self._blocks = [joined]
        return {name: self._blocks[0][name][:, steps] for name in names}

    def _stored(self, names: Sequence[str], steps: slice) -> dict[str, Tensor]:
        assert self.commits is not None
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.variables[name].group, []).append(name)
        values: dict[str, np.ndarray] = {}
        for group, own in groups.items():
            values |= self.commits.read(group, own, steps)
        return {name: torch.from_numpy(values[name]) for name in names}

    def __getstate__(self) -> dict[str, Any]:
        # a copy reads what is in memory; one of a store reads nothing more than that
        names = list(self.variables)
        return {**vars(self), "_blocks": [self.read(names)], "commits": None}
