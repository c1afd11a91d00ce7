"""A run of chains: rounds of tasks, and a commit after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro_geo.engine.blocks import Block
from pyro_geo.engine.identity import check_density
from pyro_geo.engine.progress import Clock, Progress
from pyro_geo.engine.record import DrawRecord
from pyro_geo.engine.schedule import Rounds, RunState, Task
from pyro_geo.engine.session import Session
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.engine.workers import Workers
from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore

__all__ = ["ChainSession"]


class ChainSession(Session):
    """The session of a run of chains.

    Args:
        rounds: what is due.
        record: takes the draws.
        workers: do the tasks.
        clock: takes the time by phase.
        facts: what of the run's facts changes from round to round.
    """

    record: DrawRecord

    def __init__(
        self,
        rounds: Rounds,
        record: DrawRecord,
        workers: Workers,
        clock: Clock,
        facts: Callable[[RunState], dict[str, Any]],
    ) -> None:
        codec = StateCodec(RunState, *rounds.state_types)
        super().__init__(record, codec, rounds.begin(), clock)
        self.rounds, self.workers = rounds, workers
        self._facts = facts

    @property
    def notes(self) -> list[str]:
        """Notes of all sittings, and of the workers."""
        return list(dict.fromkeys([*super().notes, *self.workers.notes]))

    def layout(self) -> dict[str, Any]:
        """Variables, counts, chunks and header of a store."""
        record, rounds = self.record, self.rounds
        longest = min(rounds.length, rounds.plan.num_samples)
        return {
            "variables": record.recorded.variables(),
            "num_chains": rounds.plan.num_chains,
            "num_draws": rounds.plan.num_samples // record.thin,
            "chunk": (len(rounds.groups[0]), -(-longest // record.thin)),
            "header": {
                "block_draws": rounds.length,
                "chain_name": rounds.kernel.chain_name,
            },
        }

    def live_facts(self) -> dict[str, Any]:
        """Attributes that change from round to round."""
        return self._facts(self.state)

    def close(self) -> None:
        """Let workers and the store go."""
        self.workers.close()
        super().close()

    # -- the store -------------------------------------------------------------------

    def _take_over(self, store: RunStore) -> None:
        self._extend(store)
        self.record.load(store)
        if (last := self.record.stored_densities()) is not None:
            kernel, target = self.rounds.kernel, self.record.target
            where = f"store {store.path}"
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
        if any(self.state.blocks):
            where, chosen = f"store {store.path}", self.rounds.compile
            self.state.compiling.check(where, chosen, num_samples)
        self.rounds.length = store.header["block_draws"]
        planned = num_samples // self.record.thin
        if planned != store.header["planned_draws"]:
            store.plan(planned)

    def _count(self) -> None:
        self.record.close_round(self.state.draws)

    # -- sampling --------------------------------------------------------------------

    def sample(self, shown: bool) -> None:
        """Do round after round until nothing is due.

        Args:
            shown: whether to show progress bars.
        """
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
        try:
            for key, result in clock.timed(phase, self.workers.results(tasks)):
                if isinstance(result, Block):
                    with clock.phase(self._storing(phase)):
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
        self._advance(self.rounds.after(self.state, results), phase)
        if phase == "sampling":
            facts = {"rung": self.state.rung}
        bar.show(done, facts, self.rounds.to_compile(self.state))
