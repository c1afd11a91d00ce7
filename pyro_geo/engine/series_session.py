"""A run of a filter over many series: blocks of steps, and a commit after each."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._process import Seconds, ignored, one_thread
from pyro_geo.density import Rung
from pyro_geo.density.batched import Compile
from pyro_geo.density.compiling import worthwhile_steps
from pyro_geo.engine.attributes import Facts
from pyro_geo.engine.densities import KnownDensity
from pyro_geo.engine.identity import Likeness
from pyro_geo.engine.pool import (
    Failure,
    JoblibPool,
    let_memory_stay,
    num_processes,
    packed,
)
from pyro_geo.engine.progress import Clock, Progress
from pyro_geo.engine.series import BlockResult, SeriesFilter, SeriesRecord
from pyro_geo.engine.session import Session
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError
from pyro_geo.io.names import Coords
from pyro_geo.io.store import LABELS, REPORTS, RunStore
from pyro_geo.ops.arrays import same_values

__all__ = ["SeriesSession", "SeriesState"]


class SeriesState(NamedTuple):
    """Where a run is between two blocks.

    Attributes:
        states: of each group; None before it begins.
        steps: finished ones.
        rung: that the last block ran on.
    """

    states: list
    steps: int = 0
    rung: Rung = "traced"


class SeriesSession(Session):
    """The session of a filter.

    Args:
        filter: with its reports.
        record: takes the steps.
        block_steps: steps of a block.
        compile: when to go up the ladder.
        n_jobs: groups that are run at the same time.
        clock: takes the time by phase.
        facts: of the run so far.
        coords: labels of axes.
        header: what else a store must know.
    """

    record: SeriesRecord

    def __init__(
        self,
        filter: SeriesFilter,
        record: SeriesRecord,
        *,
        block_steps: int,
        compile: Compile,
        n_jobs: int | None,
        clock: Clock,
        facts: Callable[[], Facts],
        coords: Coords,
        where: str,
    ) -> None:
        codec = StateCodec(SeriesState, KnownDensity, filter.state_type)
        begun = SeriesState([None] * len(filter.groups))
        super().__init__(record, codec, begun, clock)
        self.filter, self.block_steps, self.compile = filter, block_steps, compile
        self._facts = facts
        self._labels = {
            axis: list(map(_plain, names)) for axis, names in coords.items()
        }
        self._pool: JoblibPool | None = None
        if len(filter.groups) > 1 and num_processes(n_jobs) > 1:
            common = packed((filter, torch.get_default_dtype()), f"{where}, n_jobs")
            self._pool = JoblibPool(_in_worker, common, n_jobs, f"{where}, n_jobs")

    def subject_notes(self) -> list[str]:
        """Notes of the filter, here and in other processes."""
        return [*self.filter.notes, *([] if self._pool is None else self._pool.notes)]

    @property
    def build_seconds(self) -> Seconds:
        """Time that tracing and compiling have taken."""
        return self.filter.build_seconds

    # -- the store -------------------------------------------------------------------

    def layout(self) -> dict[str, Any]:
        """Variables, counts, chunks and header of a store."""
        return {
            "variables": list(self.record.variables.values()),
            "num_chains": self.record.num_series,
            "num_draws": self.filter.num_steps,
            "chunk": (len(self.filter.groups[0]), self.block_steps),
            "header": {"chain_name": self.record.sample_dims[0]},
            "sample_dims": self.record.sample_dims,
        }

    def live_facts(self) -> Facts:
        """Attributes that change from block to block."""
        return {**self._facts(), LABELS: json.dumps(self._labels)}

    def _confirm(self, store: RunStore, likeness: Likeness | None) -> None:
        """Refuse other reports than those that were filtered."""
        done, given = store.num_draws, self.filter.num_steps
        where = f"store {store.path}"
        if given < done:
            raise CheckpointError(
                "the run in the store is longer",
                where=f"{where}, argument y",
                found=f"{given} reports of each series",
                expected=f"those it was begun with, at least {done}",
                todo="Pass all reports from the first on, then the new ones.",
            )
        now = self.filter.reports(slice(done))
        stored = store.read(REPORTS, list(now))
        for name, value in now.items():
            if not same_values(value, torch.from_numpy(stored[name])):
                raise CheckpointError(
                    "the store is of other reports",
                    where=f"{where}, argument {name}",
                    found="other values now",
                    expected=f"the first {done} steps as they were",
                    todo="Pass what was filtered, or choose another path.",
                )

    def _take_over(self, store: RunStore) -> None:
        self.record.load(store)
        if self.filter.num_steps != store.header["planned_draws"]:
            assert self.record.commits is not None
            self.record.commits.plan(self.filter.num_steps)

    def _count(self) -> None:
        self.record.close_round(self.state.steps)

    def close(self) -> None:
        """Let workers and the store go."""
        if self._pool is not None:
            self._pool.close()
        super().close()

    # -- filtering -------------------------------------------------------------------

    def continue_from(self, state: SeriesState, values: Mapping[str, Tensor]) -> None:
        """Go on from where another run ended, in memory.

        Args:
            state: of that run.
            values: of its steps.
        """
        self.state = state
        self.record.take(values)

    def sample(self, shown: bool) -> None:
        """Filter block after block until no report is left.

        Args:
            shown: whether to show a progress bar.
        """
        total, first = self.filter.num_steps, self.state.steps
        if first == total:
            return
        with self._clock.phase("filtering"):
            rung = self._rung(total - first)
        with Progress("filter", total, "step", shown) as bar:
            bar.show(first, {})
            while (first := self.state.steps) < total:
                # at multiples of the length, so that a chunk of the store is written
                # in one piece wherever a run was cut
                stop = min(total, (first // self.block_steps + 1) * self.block_steps)
                self._round(slice(first, stop), rung)
                bar.show(stop, {"rung": self.state.rung})

    def _rung(self, steps_left: int) -> Rung:
        """Choose the rung of this sitting, by counts alone; once up, always up."""
        if self.compile != "auto":
            return "compiled" if self.compile else "traced"
        if self.state.rung == "compiled":
            return "compiled"
        fewest = worthwhile_steps(self.filter.graph_size())
        return "compiled" if steps_left >= fewest else "traced"

    def _round(self, steps: slice, rung: Rung) -> None:
        states = list(self.state.states)
        reports = self.filter.reports(steps)
        reached: Rung = rung
        try:
            blocks = self._clock.timed("filtering", self._blocks(states, steps, rung))
            for group, block in blocks:
                series = self.filter.groups[group]
                rows = slice(series.start, series.stop)
                own = {name: value[rows] for name, value in reports.items()}
                states[group], reached = block.state, block.rung
                self.record.add(series, steps.start, {**block.values, **own})
        except BaseException:
            self.record.drop_round()
            raise
        self._advance(SeriesState(states, steps.stop, reached), "filtering")

    def _blocks(
        self, states: Sequence[Any], steps: slice, rung: Rung
    ) -> Iterator[tuple[int, BlockResult]]:
        tasks: dict[int, tuple[Any, slice, Rung]] = {
            group: (state, steps, rung) for group, state in enumerate(states)
        }
        if self._pool is not None:
            yield from self._pool.spread(tasks)
            return
        for group, task in tasks.items():
            yield group, _block(self.filter, group, *task)


def _block(
    filter: SeriesFilter, group: int, state: Any, steps: slice, rung: Rung
) -> BlockResult:
    state = filter.begin(group) if state is None else state
    return filter.block(group, state, steps, rung)


def _plain(label: object) -> str | int | float:
    """A label as JSON has it."""
    return label if isinstance(label, (int, float)) else str(label)


_ONE_AT_A_TIME = threading.Lock()  # traces of one process share torch's modes
_prepared: dict[str, SeriesFilter] = {}


def _in_worker(
    token: str, payload: np.ndarray, group: int, task: tuple[Any, slice, Rung]
) -> tuple[int, Any]:
    """Filter a block in a worker, which unpacks the filter once."""
    try:
        with _ONE_AT_A_TIME, ignored(), one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the driver has the same as notes
            if token not in _prepared:
                let_memory_stay()
                filter, dtype = pickle.loads(payload.tobytes())
                torch.set_default_dtype(dtype)
                _prepared.clear()
                _prepared[token] = filter
            filter = _prepared[token]
            return group, (_block(filter, group, *task), filter.notes)
    except Exception as reason:
        return group, Failure.of(reason)
