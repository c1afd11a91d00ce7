"""Draws of the dynamics on the engine: rounds of groups, spread, stored and resumed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._process import Seconds, one_thread
from pyro_geo.density import GraphSize, Rung
from pyro_geo.engine.descriptions import describe
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.schedule import split_chains
from pyro_geo.engine.series import BlockResult, SeriesRecord
from pyro_geo.engine.series_session import SeriesSession
from pyro_geo.engine.session import sitting
from pyro_geo.io.names import SERIES_DIMS
from pyro_geo.io.store import FILTERED, REPORTS, RunStore, Variable
from pyro_geo.ops.random import substream
from pyro_geo.planning.backends import Learned, ValueBackend
from pyro_geo.planning.solving import solve_group

__all__ = ["DrawJobs", "Solved", "run_jobs"]

_REASON = 200  # bytes of the reason that a failed draw leaves
_TRIES = 5  # draws that are tried for the shapes of a backend


class Solved(NamedTuple):
    """What all jobs have left.

    Attributes:
        learned: rows of all draws, those of failed ones without meaning.
        failed: number of a draw to what was wrong.
        interrupted: whether draws are missing at the end.
        tried: draws that were.
    """

    learned: Learned
    failed: dict[int, str]
    interrupted: bool
    tried: int


class DrawJobs:
    """Draws in rounds of groups, as :class:`~pyro_geo.engine.series.SeriesFilter` asks.

    Draw `i` is lane `i % lanes` of round `i // lanes`. A group of lanes is solved side
    by side; groups are fixed by the numbers of the draws alone, so that no result
    depends on the number of workers.

    Args:
        backend: learns the values.
        theta: draws, `(N, P)`.
        seed: of the run.
        group_size: draws that are solved side by side.
        groups_per_round: groups between two commits.
    """

    state_type = type(None)
    notes: list[str]
    build_seconds = Seconds()

    def __init__(
        self,
        backend: ValueBackend,
        theta: Tensor,
        seed: int,
        group_size: int,
        groups_per_round: int,
    ) -> None:
        self.backend, self.theta, self.seed = backend, theta, seed
        self.notes = []
        self.lanes = min(len(theta), group_size * groups_per_round)
        self.groups: Sequence[range] = split_chains(
            self.lanes, min(group_size, self.lanes)
        )
        self.num_steps = -(-len(theta) // self.lanes)
        like = self._example()
        self.names = tuple(like.tensors), tuple(like.diagnostics)
        self._like = {
            f"{kind}.{name}": value[0]
            for kind, part in zip(("value", "note"), like, strict=True)
            for name, value in part.items()
        }

    def _example(self) -> Learned:
        """Solve one draw the cheap way, for the shapes of what is learned."""
        for row in range(min(_TRIES, len(self.theta))):
            one = self.theta[row : row + 1]
            found, _ = solve_group(self.backend.outlined(), one, [self.seed])
            if found is not None:
                return found
        return Learned({}, {})

    @property
    def variables(self) -> list[Variable]:
        """What a draw leaves."""
        byte = np.dtype(np.uint8)
        theta = self.theta[:0].numpy().dtype
        return [
            *(
                Variable(FILTERED, name, tuple(x.shape), x.numpy().dtype, _axes(x))
                for name, x in self._like.items()
            ),
            Variable("sample_stats", "tried", (), byte),
            Variable("sample_stats", "reason", (_REASON,), byte, ("byte",)),
            Variable(REPORTS, "theta", (self.theta.shape[1],), theta, ("parameter",)),
        ]

    def graph_size(self) -> GraphSize:
        """Nothing is traced."""
        return GraphSize(0, 0, 0)

    def begin(self, group: int) -> None:
        """Nothing is carried from round to round."""

    def block(self, group: int, state: Any, steps: slice, rung: Rung) -> BlockResult:
        """Solve the draws of a group in some rounds."""
        series = self.groups[group]
        parts = [self._round(series, step) for step in range(steps.start, steps.stop)]
        values = {name: torch.stack([p[name] for p in parts], 1) for name in parts[0]}
        return BlockResult(None, values, rung)

    def reports(self, steps: slice) -> dict[str, Tensor]:
        """The draws at some rounds, lanes first."""
        rows = torch.arange(self.num_steps * self.lanes).clamp(max=len(self.theta) - 1)
        theta = self.theta[rows].unflatten(0, (self.num_steps, self.lanes))
        return {"theta": theta[steps].transpose(0, 1).contiguous()}

    def _round(self, series: range, step: int) -> dict[str, Tensor]:
        first = step * self.lanes
        rows = [i for i in (first + lane for lane in series) if i < len(self.theta)]
        count = len(series)
        values = {
            name: torch.zeros(count, *x.shape, dtype=x.dtype)
            for name, x in self._like.items()
        }
        tried = torch.zeros(count, dtype=torch.uint8)
        reason = torch.zeros(count, _REASON, dtype=torch.uint8)
        tried[: len(rows)] = 1
        if rows:
            seeds = [substream(self.seed, 1, row) for row in rows]
            with torch.no_grad():
                part, failed = solve_group(self.backend, self.theta[rows], seeds)
            if part is not None:
                self._fill(values, part, len(rows), failed)
            for row, why in failed.items():
                text = why.encode()[:_REASON] or b"?"
                reason[row, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        return {**values, "tried": tried, "reason": reason}

    def _fill(
        self, values: dict[str, Tensor], part: Learned, count: int, failed: dict
    ) -> None:
        for kind, found in zip(("value", "note"), part, strict=True):
            for name, x in found.items():
                place = values.get(f"{kind}.{name}")
                if place is None or place.shape[1:] != x.shape[1:]:
                    text = f"{name} has the shape {tuple(x.shape[1:])}, unlike others"
                    failed.update({row: text for row in range(count)})
                    continue
                place[:count] = torch.where(x.isfinite(), x, 0).to(place)


def run_jobs(
    jobs: DrawJobs,
    *,
    store: str | os.PathLike[str] | None,
    resume: bool,
    n_jobs: int | None,
    progress_bar: bool,
) -> Solved:
    """Solve all draws, or those that a store lacks.

    Args:
        jobs: the draws.
        store: the folder of the run, if it has one.
        resume: whether to go on with what is there.
        n_jobs: groups that are solved at the same time, as joblib understands it.
        progress_bar: whether to show one.

    Returns:
        What all have left.
    """
    record = SeriesRecord(jobs.variables, jobs.lanes, SERIES_DIMS, 1 << 30)
    clock = Clock()

    def begin(opened: RunStore | None) -> SeriesSession:
        session = SeriesSession(
            jobs,
            record,
            block_steps=1,
            compile=False,
            n_jobs=n_jobs,
            clock=clock,
            facts=lambda: {"kernel": "OfflinePlanner", "seed": jobs.seed},
            coords={},
            where="OfflinePlanner.run",
        )
        if store is not None:
            identity = {
                "kernel": "OfflinePlanner",
                "seed": jobs.seed,
                "settings": {"backend": describe(jobs.backend)},
                "run": {"lanes": jobs.lanes, "group_size": len(jobs.groups[0])},
            }
            session.attach(store, opened, identity, session.live_facts())
        return session

    with one_thread(), sitting(begin, store if resume else None, clock) as session:
        session.run(progress_bar, lambda: None)
        session.finish(session.live_facts())
        values = record.read(list(record.variables))
        interrupted = session.interrupted
    return _gathered(jobs, values, interrupted)


def _gathered(jobs: DrawJobs, values: dict[str, Tensor], interrupted: bool) -> Solved:
    """Put lanes and rounds back into the order of the draws."""
    flat = {k: v.transpose(0, 1).flatten(0, 1) for k, v in values.items()}
    count = int(flat["tried"].sum())
    flat = {name: value[:count] for name, value in flat.items()}
    failed = {
        row: bytes(flat["reason"][row].tolist()).rstrip(b"\0").decode(errors="replace")
        for row in range(count)
        if flat["reason"][row, 0]
    }
    tensors, notes = jobs.names
    learned = Learned(
        {name: flat[f"value.{name}"] for name in tensors},
        {name: flat[f"note.{name}"] for name in notes},
    )
    return Solved(learned, failed, interrupted, count)


def _axes(value: Tensor) -> tuple[None, ...]:
    return (None,) * value.dim()
