"""A run under way: rounds of tasks, and a commit after each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pyro_geo._process import Seconds, uninterrupted
from pyro_geo.engine.blocks import Block
from pyro_geo.engine.identity import check_density, check_run
from pyro_geo.engine.progress import Clock, Progress
from pyro_geo.engine.record import DrawRecord
from pyro_geo.engine.schedule import Rounds, RunState, Task
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.engine.workers import Workers
from pyro_geo.errors import CheckpointError
from pyro_geo.io.names import plain_facts
from pyro_geo.io.store import RunStore, Snapshot

__all__ = ["Session"]


class Session:
    """Everything between the start of a run and its last draw.

    Args:
        rounds: what is due.
        record: takes the draws.
        workers: do the tasks.
        live_facts: what of the run's facts changes from round to round.
    """

    def __init__(
        self,
        rounds: Rounds,
        record: DrawRecord,
        workers: Workers,
        live_facts: Callable[[RunState], dict[str, Any]],
    ) -> None:
        self.rounds, self.record, self.workers = rounds, record, workers
        self.live_facts = live_facts
        self.state = rounds.begin()
        self._codec = StateCodec(RunState, *rounds.state_types)
        self._notes: list[str] = []
        self._clock = Clock()

    @property
    def notes(self) -> list[str]:
        """Notes of the sittings before this one, of this one and of its workers."""
        notes = [*self._notes, *self.record.target.notes, *self.workers.notes]
        return list(dict.fromkeys(notes))

    # -- the store -------------------------------------------------------------------

    def create(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        """Begin a store.

        Args:
            path: the folder.
            identity: tells this run from others.
            facts: attributes of the draws.
        """
        target, record, rounds = self.record.target, self.record, self.rounds
        longest = min(rounds.length, rounds.plan.num_samples)
        store = RunStore.create(
            path,
            record.recorded.variables(),
            num_chains=rounds.plan.num_chains,
            num_draws=rounds.plan.num_samples // record.thin,
            chunk=(len(rounds.groups[0]), -(-longest // record.thin)),
            state=self._snapshot(0),
            data={n: v.detach().cpu().numpy() for n, v in target.observed.items()},
            dims=target.dims,
            coords=target.coords,
            header={
                **identity,
                "block_draws": rounds.length,
                "torch_version": torch.__version__,
                "chain_name": rounds.kernel.chain_name,
            },
            facts=plain_facts(facts),
        )
        record.begin(store)

    def restore(self, store: RunStore, identity: dict[str, Any]) -> None:
        """Go on from a store, if it is of the same run.

        Args:
            store: the store, open.
            identity: of the run now.
        """
        where, target = f"store {store.path}", self.record.target
        check_run(where, store.header, identity, target)
        doc, arrays = store.load()
        self.state = self._codec.restore(doc["state"], arrays, target.device)
        self._notes = list(doc["notes"])
        self._clock.phases.update({k: Seconds(*v) for k, v in doc["seconds"].items()})
        self._extend(store)
        self.record.load(store)
        if (last := self.record.stored_densities()) is not None:
            kernel = self.rounds.kernel
            check_density(where, target, *last, lambda q: kernel.log_prob(target, q))

    def _extend(self, store: RunStore) -> None:
        """Plan for as many draws as this sitting asks for."""
        num_samples, done = self.rounds.plan.num_samples, self.state.draws
        if num_samples < done:
            raise CheckpointError(
                "the run in the store is longer",
                where=f"store {store.path}, argument num_samples",
                found=num_samples,
                expected=f"at least {done}",
                todo="Ask for as many draws as it was begun with, or more.",
            )
        self.rounds.length = store.header["block_draws"]
        planned = num_samples // self.record.thin
        if planned != store.header["planned_draws"]:
            store.plan(planned)

    def _snapshot(self, commit: int) -> Snapshot:
        taken = self._codec.snapshot(self.state, commit)
        doc = {
            "state": taken.doc,
            "notes": self.notes,
            "seconds": {k: list(v) for k, v in self._clock.phases.items()},
        }
        return taken._replace(doc=doc)

    # -- sampling --------------------------------------------------------------------

    def sample(self, clock: Clock, shown: bool) -> None:
        """Do round after round until nothing is due.

        Args:
            clock: takes the time by phase.
            shown: whether to show progress bars.
        """
        for name, seconds in self._clock.phases.items():
            clock.phases[name] = clock.phases.get(name, Seconds()) + seconds
        self._clock = clock
        for stage in self.rounds.stages:
            if self.state.stage != stage.name:
                continue
            total = self.rounds.total(stage)
            with Progress(stage.label, total, stage.unit, shown) as bar:
                while self.state.stage == stage.name:
                    tasks = self.rounds.due(self.state)
                    if not tasks:
                        break
                    self._round(tasks, stage.phase, bar)

    def _round(self, tasks: dict[int, Task], phase: str, bar: Progress) -> None:
        results, clock = {}, self._clock
        facts: Mapping[str, str] = {}
        done = self.state.draws * self.rounds.plan.num_chains
        storing = phase if self.record.store is None else "storing"
        arriving = self.workers.results(tasks)
        try:
            while True:
                with clock.phase(phase):
                    key, result = next(arriving, (-1, None))
                if result is None:
                    break
                if isinstance(result, Block):
                    with clock.phase(storing):
                        chains, first = tasks[key].chains, self.state.draws
                        self.record.add(chains, first, result.q, result.stats)
                    bar.count(result.stats)
                    done += result.q.shape[0] * result.q.shape[1]
                    # the record has the draws; the state of a run holds none
                    result = result._replace(q=result.q[:, :0], stats={})
                else:
                    done, facts = result.iterations, result.progress
                results[key] = result
        except BaseException:
            self.record.drop_round()
            raise
        with clock.phase(storing), uninterrupted():
            self.state = self.rounds.after(self.state, results)
            self.record.close_round(self.state.draws)
            self._commit()
        if phase == "sampling":
            facts = {"rung": self.state.rung}
        due = self.rounds.rung(self.state)
        compiling = due == "compiled" and self.state.rung == "traced"
        bar.show(done, facts, "compile" if compiling else None)

    def _commit(self, facts: dict[str, Any] | None = None, **options: bool) -> None:
        if (commits := self.record.commits) is None:
            return
        facts = plain_facts({**self.live_facts(self.state), **(facts or {})})
        self.record.commit(self._snapshot(commits.next_commit), facts, **options)

    def finish(self, facts: dict[str, Any], finished: bool) -> None:
        """Say in the store how the run has ended.

        Args:
            facts: attributes of the draws.
            finished: whether it is complete.
        """
        with uninterrupted():
            self._commit(facts, finished=finished, wait=True)

    def close(self) -> None:
        """Let workers and the store go."""
        self.workers.close()
        self.record.close()
