"""A run as rounds: one block of each group of chains that is due."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from pyro_geo.density import AUTO_COMPILE_STEPS, Rung
from pyro_geo.engine._tasks import Plan, Task
from pyro_geo.engine.kernel import Block, BlockKernel, Warmup

__all__ = ["Counts", "Rounds", "RunState", "split_chains"]

Results: TypeAlias = "dict[int, Warmup | Block]"


class Counts(NamedTuple):
    """What a run has done so far.

    Attributes:
        num_steps: batched steps, as if all groups ran together; the ladder counts them.
        num_gradients: gradients of one chain.
        warmup_num_steps: steps of the warm-up.
        warmup_num_gradients: gradients of the warm-up.
    """

    num_steps: int = 0
    num_gradients: int = 0
    warmup_num_steps: int = 0
    warmup_num_gradients: int = 0


class RunState(NamedTuple):
    """Where a run is between two rounds; all that it needs to go on.

    Attributes:
        states: of the kernel, one for each group; None before it starts.
        blocks: of warm-up behind each group.
        ready: whether each group can draw.
        draws: finished ones of each chain, before thinning.
        drawn: blocks of draws behind all groups.
        rung: that the last step ran on.
        counts: work done.
    """

    states: list
    blocks: list[int]
    ready: list[bool]
    draws: int
    drawn: int
    rung: Rung
    counts: Counts

    @property
    def stage(self) -> Literal["tune", "join", "draw"]:
        """The first group tunes, the others join it, then all draw."""
        if not self.ready[0]:
            return "tune"
        return "draw" if all(self.ready) else "join"


class Rounds:
    """Say what is due, and what has come of it.

    Args:
        kernel: the kernel.
        plan: of the run.
        groups: chains that run side by side.
        length: draws of each chain in one block.
        compile: when to go up the ladder.
        initial: given starts of all chains, `(chains, dim)`.
    """

    def __init__(
        self,
        kernel: BlockKernel,
        plan: Plan,
        groups: list[range],
        length: int,
        compile: Literal["auto"] | bool,
        initial: Tensor | None,
    ) -> None:
        self.kernel, self.plan, self.groups = kernel, plan, groups
        self.length = length
        self.compile = compile
        self.initial = initial

    def begin(self) -> RunState:
        """The state before the first round."""
        count = len(self.groups)
        return RunState(
            [None] * count, [0] * count, [False] * count, 0, 0, "traced", Counts()
        )

    def rung(self, state: RunState) -> Rung:
        """The rung that is due."""
        late = self.compile == "auto" and state.counts.num_steps >= AUTO_COMPILE_STEPS
        return "compiled" if self.compile is True or late else "traced"

    def due(self, state: RunState) -> dict[int, Task]:
        """The next round, group to task; empty at the end."""
        rung = self.rung(state)
        if state.stage == "draw":
            draws = min(self.length, self.plan.num_samples - state.draws)
            return {
                g: Task("draw", chains, state.drawn, rung, state.states[g], draws)
                for g, chains in enumerate(self.groups)
                if draws > 0
            }
        tuning = None if state.stage == "tune" else self.kernel.tuning(state.states[0])
        return {
            g: self._warmup(g, state, rung, tuning)
            for g in ([0] if state.stage == "tune" else range(len(self.groups)))
            if not state.ready[g]
        }

    def _warmup(self, g: int, state: RunState, rung: Rung, tuning: object) -> Task:
        chains, index = self.groups[g], state.blocks[g]
        if index:
            return Task("adapt", chains, index, rung, state.states[g])
        rows = None if self.initial is None else self.initial[list(chains)]
        return Task("start", chains, 0, rung, initial=rows, tuning=tuning)

    def after(self, state: RunState, results: Results) -> RunState:
        """The state once all tasks of a round are done.

        Args:
            state: before it.
            results: group to what came of its task.

        Returns:
            The next state.
        """
        states, blocks = list(state.states), list(state.blocks)
        ready = list(state.ready)
        draws, drawn, rung = state.draws, state.drawn, state.rung
        for g, found in results.items():
            states[g] = found.state
            if isinstance(found, Warmup):
                blocks[g] += 1
                ready[g] = found.finished
        rung = results[min(results)].rung or rung
        if state.stage == "draw":
            draws = min(draws + self.length, self.plan.num_samples)
            drawn += 1
        steps = max(found.num_steps for found in results.values())
        gradients = sum(
            found.num_steps * len(self.groups[g]) for g, found in results.items()
        )
        counts = state.counts._replace(
            num_steps=state.counts.num_steps + steps,
            num_gradients=state.counts.num_gradients + gradients,
        )
        if state.stage != "draw":
            counts = counts._replace(
                warmup_num_steps=counts.num_steps,
                warmup_num_gradients=counts.num_gradients,
            )
        return RunState(states, blocks, ready, draws, drawn, rung, counts)


def split_chains(num_chains: int, most: int) -> list[range]:
    """Split chains into groups of one size, of which the last may be smaller.

    Args:
        num_chains: how many.
        most: largest group.

    Returns:
        The groups, as few as possible and as even as possible.

    Example:
        >>> split_chains(10, 4)
        [range(0, 4), range(4, 8), range(8, 10)]
    """
    size = -(-num_chains // -(-num_chains // most))
    return [
        range(first, min(first + size, num_chains))
        for first in range(0, num_chains, size)
    ]
