"""What the engine hands to a kernel, and what it gets back: groups and blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pyro_geo.density import GraphSize, Rung, Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.noise import BlockNoise

__all__ = ["Block", "BurnIn", "ChainGroup", "Warmup"]


class Block(NamedTuple):
    """A fixed number of finished draws of each chain of a group.

    Attributes:
        state: what the next block of the same chains starts from.
        q: draws, `(chains, draws, dim)`, unconstrained.
        stats: name to `(chains, draws)`.
        num_steps: batched steps taken; the ladder counts them.
        rung: rung that the step ran on.
        graph: size of the graph of a step. Where a kernel leaves it out, it is that of
            the largest function that it asked of the target.
    """

    state: Any
    q: Tensor
    stats: dict[str, Tensor]
    num_steps: int
    rung: Rung
    graph: GraphSize = GraphSize()


class Warmup(NamedTuple):
    """Where a group of chains is after a block of warm-up.

    Attributes:
        state: what the next block, of warm-up or of draws, starts from.
        finished: whether the next block makes draws.
        iterations: steps of warm-up that the chains have made in all.
        num_steps: batched steps taken in this block; the ladder counts them.
        rung: rung that the step ran on; None where there was no step.
        progress: what the progress bar shows beside, by name.
        graph: size of the graph of a step, see :class:`Block`.
        planned: draws of each chain that were planned, where `start` asked for their
            number; the engine fills it in.
    """

    state: Any
    finished: bool
    iterations: int = 0
    num_steps: int = 0
    rung: Rung | None = None
    progress: Mapping[str, str] = {}
    graph: GraphSize = GraphSize()
    planned: int | None = None


class BurnIn(NamedTuple):
    """State of chains whose draws do not count yet.

    Attributes:
        state: the kernel's own.
        left: draws that are still thrown away.
        done: draws that were.
    """

    state: Any
    left: int
    done: int = 0


class ChainGroup(NamedTuple):
    """Chains that start together and run side by side.

    Attributes:
        chains: their indices in the run.
        num_chains: chains of the whole run.
        num_samples: draws that each chain will be asked for in all. A run whose start
            depends on it can be made neither longer nor shorter.
        warmup_steps: steps of warm-up.
        noise: random streams for the start, one per chain.
        initial: unconstrained starts that the user gave, `(chains, dim)`, or None.
        tuning: what the first group found in its warm-up; None for the first group.
        modes: the mode that each chain starts in, where the user gave some,
            `(chains,)`.
    """

    chains: Sequence[int]
    num_chains: int
    num_samples: int
    warmup_steps: int
    noise: BlockNoise
    initial: Tensor | None = None
    tuning: Any = None
    modes: Tensor | None = None

    def starts(self, target: Target, strategy: Strategy = "uniform") -> Tensor:
        """Give the user's starts, or find one for each chain by its own stream.

        Args:
            target: the density.
            strategy: see :meth:`pyro_geo.Target.initial`.

        Returns:
            Positions, `(chains, dim)`, of finite density unless they are the user's.
        """
        if self.initial is not None:
            return self.initial
        generators = [self.noise.generator(i) for i in range(len(self.chains))]
        return target.initial_each(generators, strategy)

    def burn_in(self, state: Any) -> Warmup:
        """Begin a warm-up that throws draws away and tunes nothing.

        The kernel's default `adapt` makes these draws.

        Args:
            state: of the kernel, ready to draw.

        Returns:
            What `start` returns: `warmup_steps` draws of burn-in are due, if any.
        """
        if self.warmup_steps == 0:
            return Warmup(state, finished=True)
        return Warmup(BurnIn(state, self.warmup_steps), finished=False)
