"""A run of chains: rounds of tasks, and a commit after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block
from pyro_geo.engine.densities import KnownDensity, check_values
from pyro_geo.engine.density_session import DensitySession
from pyro_geo.engine.progress import Clock, Progress
from pyro_geo.engine.record import DrawRecord
from pyro_geo.engine.schedule import Rounds, RunState, Task
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.engine.workers import Workers
from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore
from pyro_geo.ops.chunks import map_chunks

__all__ = ["ChainSession"]


class ChainSession(DensitySession):
    """The session of a run of chains.

    Args:
        rounds: what is due.
        record: takes the draws.
        workers: do the tasks.
        clock: takes the time by phase.
        facts: what of the run's facts changes from round to round.
        label: more statistics of draws, from their positions.
    """

    record: DrawRecord

    def __init__(
        self,
        rounds: Rounds,
        record: DrawRecord,
        workers: Workers,
        clock: Clock,
        facts: Callable[[RunState], dict[str, Any]],
        label: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        codec = StateCodec(RunState, KnownDensity, *rounds.state_types)
        super().__init__(record.target, record, codec, rounds.begin(), clock)
        self.rounds, self.workers = rounds, workers
        self._facts, self._label = facts, label
        self._replaced: int | None = None  # first draw of a block that was made again
        self._has_room = True

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
        self._check_length(store)
        self._has_room = False
        self.record.load(store)
        if (stored := self.record.stored_densities()) is not None:
            where = f"store {store.path}"
            check_values(where, "log-density", self._in_parts, *stored)

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """The statistic `lp`, `(draws,)` at `q` of `(draws, dim)`."""
        return self.rounds.kernel.log_prob(target, q)

    def _in_parts(self, q: Tensor) -> Tensor:
        target = self.record.target
        return map_chunks(lambda rows: self.log_prob(target, rows), q, 256)

    def _check_length(self, store: RunStore) -> None:
        """Refuse a number of draws with which this run could not have begun."""
        rounds, state = self.rounds, self.state
        num_samples, name = rounds.plan.num_samples, type(rounds.kernel).__name__
        where = f"store {store.path}, argument num_samples"
        if num_samples < state.draws:
            raise CheckpointError(
                "the run in the store is longer",
                where=where,
                found=num_samples,
                expected=f"at least {state.draws}",
                todo="Ask for as many draws as it was begun with, or more.",
            )
        if any(state.blocks):
            state.compiling.check(f"store {store.path}", rounds.compile, num_samples)
        if state.planned not in (None, num_samples):
            raise CheckpointError(
                f"the start of {name} depends on how many draws are planned",
                where=where,
                found=num_samples,
                expected=state.planned,
                todo="Ask for as many draws as it was begun with, or begin anew.",
            )
        if rounds.length != store.header["block_draws"]:
            raise CheckpointError(
                f"{name} makes blocks of another length now",
                where=where,
                found=f"{rounds.length} draws of each chain",
                expected=store.header["block_draws"],
                todo="Ask for as many draws as it was begun with, or begin anew.",
            )

    def _make_room(self) -> None:
        """Plan for as many draws in the store as this sitting asks for."""
        if self._has_room or (commits := self.record.commits) is None:
            return
        planned = self.rounds.plan.num_samples // self.record.thin
        if planned != commits.store.header["planned_draws"]:
            commits.plan(planned)
        self._has_room = True

    def _count(self) -> None:
        self.record.close_round(self.state.draws, self._replaced)

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
        self._make_room()

    def _round(self, tasks: dict[int, Task], phase: str, bar: Progress) -> None:
        results, clock, rounds = {}, self._clock, self.rounds
        facts: Mapping[str, str] = {}
        origin = rounds.origin(self.state)
        again = origin is not self.state
        blocks: list[tuple[range, Block]] = []
        ends: list[Tensor] = []  # last draw of each chain
        done = origin.draws * rounds.plan.num_chains
        try:
            for key, result in clock.timed(phase, self.workers.results(tasks)):
                if isinstance(result, Block):
                    if self._label is not None:
                        stats = {**result.stats, **self._label(result.q)}
                        result = result._replace(stats=stats)
                    ends.append(result.q[:, -1])
                    blocks.append((tasks[key].chains, result))
                    if again:
                        self._compare(*blocks[-1], origin.draws)
                    else:
                        self._keep(blocks, origin.draws, phase)
                    bar.count(result.stats)
                    done += result.q.shape[0] * result.q.shape[1]
                    # the record has the draws; the state of a run holds none
                    result = result._replace(q=result.q[:, :0], stats={})
                else:
                    done, facts = result.iterations, result.progress
                results[key] = result
            if again:  # nothing is written before all groups have been compared
                self._keep(blocks, origin.draws, phase)
            if ends:
                self._look_at(torch.cat(ends), origin.drawn + 1)
        except BaseException:
            self.record.drop_round()
            raise
        self._replaced = origin.draws if again else None
        self._advance(rounds.after(self.state, results), phase)
        if phase == "sampling":
            facts = {"rung": self.state.rung}
        bar.show(done, facts, rounds.to_compile(self.state))

    def _keep(self, blocks: list[tuple[range, Block]], first: int, phase: str) -> None:
        """Hand blocks over to the record; the list is empty then."""
        with self._clock.phase(self._storing(phase)):
            self._make_room()
            while blocks:
                chains, block = blocks.pop(0)
                self.record.add(chains, first, block.q, block.stats)

    def _compare(self, chains: range, block: Block, first: int) -> None:
        """Refuse a block made again whose first draws are not those of before.

        Raises:
            CheckpointError: they are not.
        """
        name = self.record.differs(chains, first, block.q, block.stats)
        if name is None:
            return
        kernel = type(self.rounds.kernel).__name__
        raise CheckpointError(
            f"the run cannot be made longer: a longer block of {kernel} has other "
            "first draws",
            where=f"{name} of chains {chains[0]} to {chains[-1]} after draw {first}",
            found="other bits",
            expected="those of the draws that are there",
            todo="Go on where it was begun, with the same versions and the same "
            f"processor; else begin anew, with a num_samples that {self.rounds.length} "
            "divides.",
        )
