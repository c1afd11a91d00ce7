"""A run as rounds of tasks: one block of each group of chains that is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from pyro_geo.density import Rung, Target
from pyro_geo.engine.blocks import Block, BurnIn, ChainGroup, Warmup
from pyro_geo.engine.compiling import CompileRecord, fewest_samples
from pyro_geo.engine.noise import Noise

if TYPE_CHECKING:
    from pyro_geo.engine.kernel import Kernel

__all__ = [
    "WARMUP_REGION",
    "Counts",
    "Rounds",
    "RunPlan",
    "RunStage",
    "RunState",
    "Task",
    "perform",
    "split_chains",
    "warm_up",
]

Results: TypeAlias = "dict[int, Warmup | Block]"

_DRAWS, WARMUP_REGION = 0, 1  # regions of the noise


class RunPlan(NamedTuple):
    """What all tasks of a run have in common.

    Attributes:
        seed: of the run.
        num_samples: draws of each chain.
        num_chains: chains.
        warmup_steps: steps of warm-up.
    """

    seed: int
    num_samples: int
    num_chains: int
    warmup_steps: int


# -- one task -------------------------------------------------------------------------


class Task(NamedTuple):
    """One block of one group of chains.

    Attributes:
        kind: start the chains, adapt them, or draw.
        chains: which ones.
        block: its number; addresses its noise.
        rung: that it is to run on.
        state: where the chains are; None before they start.
        draws: to make of each chain.
        length: draws of each chain in a whole block.
        initial: starts that the user gave, `(chains, dim)`.
        tuning: of the first group.
        modes: that the chains start in, `(chains,)`.
    """

    kind: Literal["start", "adapt", "draw"]
    chains: range
    block: int
    rung: Rung
    state: Any = None
    draws: int = 0
    length: int = 0
    initial: Tensor | None = None
    tuning: Any = None
    modes: Tensor | None = None


def perform(
    kernel: Kernel, target: Target, plan: RunPlan, task: Task
) -> Warmup | Block:
    """Do a task; the result depends on the arguments alone.

    Args:
        kernel: the kernel.
        target: the density.
        plan: of the run.
        task: the task.

    Returns:
        A block of warm-up or of draws.
    """
    target = target.with_rung(task.rung)
    if task.kind == "draw":
        part = task.draws, task.length
        noise = Noise(plan.seed, _DRAWS).block(task.chains, task.block, part)
        result = kernel.block(target, task.state, task.chains, task.draws, noise)
    else:
        result = _warmup(kernel, target, plan, task)
    if result.num_steps and not result.graph.operations:
        result = result._replace(graph=target.graph_size)
    return result


def _warmup(kernel: Kernel, target: Target, plan: RunPlan, task: Task) -> Warmup:
    noise = Noise(plan.seed, WARMUP_REGION).block(task.chains, task.block)
    if task.kind == "adapt":
        return kernel.adapt(target, task.state, task.chains, noise)
    group = _WatchedGroup(
        task.chains,
        plan.num_chains,
        plan.num_samples,
        plan.warmup_steps,
        noise,
        task.initial,
        task.tuning,
        task.modes,
    )
    warmup = kernel.start(target, group)
    return warmup._replace(planned=plan.num_samples if group.asked else None)


class _WatchedGroup(ChainGroup):
    """Remembers whether it was asked how many draws are planned."""

    asked = False

    @property
    def num_samples(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Draws that each chain will be asked for in all."""
        self.asked = True
        return self[2]


def warm_up(
    kernel: Kernel,
    target: Callable[[], Target],
    chains: Sequence[int],
    *,
    num_samples: int,
    num_chains: int,
    warmup_steps: int,
    noise: Noise,
    initial: Tensor | None = None,
    tuning: Any | None = None,
    modes: Tensor | None = None,
) -> Iterator[Warmup]:
    """Start a group of chains by hand and adapt it until its kernel has finished.

    Args:
        kernel: the kernel.
        target: gives the density at the rung that is due, asked before each block.
        chains: indices of the chains of this group.
        num_samples: draws each chain will be asked for in all.
        num_chains: chains of the whole run.
        warmup_steps: steps of warm-up.
        noise: streams of the warm-up, addressed by block.
        initial: unconstrained starts, `(chains, dim)`.
        tuning: of the first group; None for the first group itself.
        modes: that the chains start in, `(chains,)`.

    Yields:
        The result of each block; the last one is finished.
    """
    streams = noise.block(chains, 0)
    group = ChainGroup(
        chains, num_chains, num_samples, warmup_steps, streams, initial, tuning, modes
    )
    warmup = kernel.start(target(), group)
    yield warmup
    index = 1
    while not warmup.finished:
        streams = noise.block(chains, index)
        warmup = kernel.adapt(target(), warmup.state, chains, streams)
        yield warmup
        index += 1


# -- all rounds -----------------------------------------------------------------------


class Counts(NamedTuple):
    """What a run has done so far.

    Attributes:
        num_steps: batched steps, as if all groups ran together; the ladder counts them.
        num_gradients: gradients of one chain.
        warmup_num_steps: steps of the warm-up.
        warmup_num_gradients: gradients of the warm-up.
        warmup_iterations: transitions of the warm-up, of the first group and then of
            those that join it.
        warmup_rate: steps of one transition, in the last block of warm-up.
    """

    num_steps: int = 0
    num_gradients: int = 0
    warmup_num_steps: int = 0
    warmup_num_gradients: int = 0
    warmup_iterations: int = 0
    warmup_rate: float = 0.0


class RunState(NamedTuple):
    """Where a run is between two rounds; all that it needs to go on.

    Attributes:
        states: of the kernel, one for each group; None before it starts.
        blocks: blocks of warm-up that each group has made.
        ready: whether each group can draw.
        draws: finished ones of each chain, before thinning.
        drawn: blocks of draws that every group has made.
        rung: that the last step ran on.
        counts: work done.
        compiling: on which rungs that was.
        planned: draws of each chain that the start of a group has asked for, if one
            has.
        before: the state before the last block, where that was shorter than the
            others: a run that is made longer makes this block again, in full.
    """

    states: list
    blocks: list[int]
    ready: list[bool]
    draws: int
    drawn: int
    rung: Rung
    counts: Counts
    compiling: CompileRecord
    planned: int | None = None
    before: RunState | None = None

    @property
    def stage(self) -> Literal["tune", "join", "draw"]:
        """The first group tunes, the others join it, then all draw."""
        if not self.ready[0]:
            return "tune"
        return "draw" if all(self.ready) else "join"


class RunStage(NamedTuple):
    """A part of a run with a progress bar of its own.

    Attributes:
        name: of the stage, see :attr:`RunState.stage`.
        label: what the bar says.
        phase: that its time is charged to.
        unit: what the bar counts.
    """

    name: str
    label: str
    phase: str
    unit: str


_STAGES = (
    RunStage("tune", "warm up", "warmup", "step"),
    RunStage("join", "warm up", "warmup", "step"),
    RunStage("draw", "sample", "sampling", "draw"),
)


class Rounds:
    """Say which tasks are due, and what state follows from their results.

    Args:
        kernel: the kernel.
        plan: of the run.
        groups: chains that run side by side.
        length: draws of each chain in one block.
        compile: when to go up the ladder.
        initial: starts that the user gave for all chains, `(chains, dim)`.
        modes: that the chains start in, where the user gave modes, `(chains,)`.
    """

    def __init__(
        self,
        kernel: Kernel,
        plan: RunPlan,
        groups: list[range],
        length: int,
        compile: Literal["auto"] | bool,
        initial: Tensor | None,
        modes: Tensor | None = None,
    ) -> None:
        self.kernel, self.plan, self.groups = kernel, plan, groups
        self.length = length
        self.compile = compile
        self.initial, self.modes = initial, modes

    @property
    def stages(self) -> tuple[RunStage, ...]:
        """The stages of a run in their order."""
        return _STAGES

    @property
    def state_types(self) -> tuple[Any, ...]:
        """Types of the states in a :class:`RunState`, for a snapshot."""
        return BurnIn, self.kernel.state_type

    def total(self, stage: RunStage) -> int:
        """How much a stage counts to: draws of all chains, or steps of warm-up."""
        plan = self.plan
        drawing = stage.phase == "sampling"
        return plan.num_samples * plan.num_chains if drawing else plan.warmup_steps

    def begin(self) -> RunState:
        """The state before the first round."""
        count = len(self.groups)
        return RunState(
            [None] * count,
            [0] * count,
            [False] * count,
            0,
            0,
            "traced",
            Counts(),
            CompileRecord(),
        )

    def rung(self, state: RunState) -> Rung:
        """The rung that is due."""
        if self.compile != "auto":
            return "compiled" if self.compile else "traced"
        fewest = self._fewest_samples(state)
        pays = fewest is not None and self.plan.num_samples >= fewest
        late = state.compiling.since is not None  # once up, always up
        return "compiled" if late or pays else "traced"

    def to_compile(self, state: RunState) -> int | None:
        """Operations of the graph that is compiled next; None if that is none."""
        known = state.compiling
        due = known.since is None and self.rung(state) == "compiled"
        return known.graph.operations if due else None

    def _fewest_samples(self, state: RunState) -> int | None:
        if not state.compiling.graph.operations or state.draws % self.length:
            return None  # nothing to compile yet, or inside a block of a longer run
        per_draw = self.kernel.steps_per_draw(state.states[0])
        return fewest_samples(state, self.plan, len(self.groups), per_draw)

    def origin(self, state: RunState) -> RunState:
        """The state that the next round starts from.

        It is the state given, or the one before its last block where this block was
        cut short and more draws are due now.

        Args:
            state: after the last round.

        Returns:
            That state, or an earlier one.
        """
        if state.before is None or self.plan.num_samples <= state.draws:
            return state
        return state.before

    def due(self, state: RunState) -> dict[int, Task]:
        """The next round, group to task; empty at the end."""
        origin = self.origin(state)
        rung = self.rung(origin)
        if state.stage == "draw":
            draws = min(self.length, self.plan.num_samples - origin.draws)
            common = draws, self.length
            return {
                g: Task("draw", chains, origin.drawn, rung, origin.states[g], *common)
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
        rows, modes = (
            None if x is None else x[list(chains)] for x in (self.initial, self.modes)
        )
        return Task("start", chains, 0, rung, initial=rows, tuning=tuning, modes=modes)

    def after(self, state: RunState, results: Results) -> RunState:
        """The state once all tasks of a round are done.

        Args:
            state: before it.
            results: group to the result of its task.

        Returns:
            The next state.
        """
        state, before = self.origin(state), None
        states, blocks = list(state.states), list(state.blocks)
        ready, planned = list(state.ready), state.planned
        draws, drawn, rung = state.draws, state.drawn, state.rung
        for g, result in results.items():
            states[g] = result.state
            if isinstance(result, Warmup):
                blocks[g] += 1
                ready[g] = result.finished
                planned = planned or result.planned
        first = results[min(results)]
        rung = first.rung or rung
        if state.stage == "draw":
            draws = min(draws + self.length, self.plan.num_samples)
            drawn += 1
            before = state if draws % self.length else None
        steps = max(result.num_steps for result in results.values())
        gradients = sum(
            result.num_steps * len(self.groups[g]) for g, result in results.items()
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
        if isinstance(first, Warmup):
            earlier = self.plan.warmup_steps if state.stage == "join" else 0
            iterations = earlier + first.iterations
            made = iterations - counts.warmup_iterations
            counts = counts._replace(warmup_iterations=iterations)
            if made > 0:
                counts = counts._replace(warmup_rate=steps / made)
        compiling = state.compiling.passed(
            self.rung(state), self._fewest_samples(state), state.counts.num_steps
        )
        if first.graph.operations:
            compiling = compiling._replace(graph=first.graph)
        return RunState(
            states,
            blocks,
            ready,
            draws,
            drawn,
            rung,
            counts,
            compiling,
            planned,
            before,
        )


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
