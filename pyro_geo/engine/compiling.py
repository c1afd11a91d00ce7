"""When a run goes up to compiled code, and which longer runs would have done the same.

With `compile="auto"` a run starts traced. At each block boundary it compares the steps
that it still plans with those that are worth compiling their graph for. It then goes
on, traced or compiled, by a rule of counts alone, which are part of its state. So a run
that is resumed goes up at the same draw. What it plans grows with `num_samples`, so at
each boundary there is a smallest number of draws for which compiling pays: from these
follows whether a longer run would have gone up at the same place, or earlier.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from pyro_geo.density import GraphSize, Rung
from pyro_geo.density.compiling import worthwhile_steps
from pyro_geo.errors import CheckpointError

if TYPE_CHECKING:
    from pyro_geo.engine.schedule import RunPlan, RunState

__all__ = ["CompileRecord", "fewest_samples"]


def fewest_samples(
    state: RunState, plan: RunPlan, num_groups: int, per_draw: float | None
) -> int | None:
    """Find the smallest number of draws for which compiling pays at a block boundary.

    A transition of warm-up that is left counts as many batched steps as those so far,
    or as those of the last block where these are more: trajectories grow as the metric
    is learned. A draw counts as many as the draws so far; before the first, as many as
    the kernel says, else as a transition of warm-up. Every group of chains makes its
    own. Steps of groups that have yet to join the first are left out: a kernel may have
    them join at once. The plan can be too long, where the first trajectories are long
    ones: an error on the good side, as code is often in the cache already.

    Args:
        state: at the boundary, a graph known.
        plan: of the run.
        num_groups: of chains.
        per_draw: steps that a draw takes, as the kernel says before the first.

    Returns:
        Draws of each chain in the whole run; None if no number is large enough.
    """
    counts, draws = state.counts, state.draws
    mean = counts.warmup_num_steps / max(1, counts.warmup_iterations)
    rate = max(mean, counts.warmup_rate)
    steps = worthwhile_steps(state.compiling.graph)
    if state.stage == "tune":
        steps -= rate * max(0, plan.warmup_steps - counts.warmup_iterations)
    if steps <= 0:
        return 0
    if draws:
        per_draw = (counts.num_steps - counts.warmup_num_steps) / draws
    elif per_draw is None:
        per_draw = rate
    if math.isinf(steps) or not per_draw:
        return None
    return draws + math.ceil(steps / (per_draw * num_groups))


class CompileRecord(NamedTuple):
    """On which rungs a run was, and for how many draws `"auto"` chooses the same.

    That is so for `least <= num_samples < below`: a longer run would have gone up
    earlier, a shorter one later.

    Attributes:
        graph: of a step; of size 0 until one has run.
        since: steps that were made before the compiled rung; None if it never was due.
        least: smallest number of draws.
        below: number of draws that is too many; None if there is none.
    """

    graph: GraphSize = GraphSize()
    since: int | None = None
    least: int = 0
    below: int | None = None

    def passed(self, rung: Rung, fewest: int | None, num_steps: int) -> CompileRecord:
        """Go past a block boundary.

        Args:
            rung: that the run went on.
            fewest: draws for which compiling pays there.
            num_steps: made before it.

        Returns:
            The record after it.
        """
        if self.since is not None:
            return self
        if rung == "compiled":
            if fewest is None:  # here "auto" stays traced however many draws there are
                return self._replace(since=num_steps, below=0)
            return self._replace(since=num_steps, least=max(self.least, fewest))
        if fewest is None or (self.below is not None and self.below <= fewest):
            return self
        return self._replace(below=fewest)

    def check(
        self, where: str, compile: Literal["auto"] | bool, num_samples: int
    ) -> None:
        """Refuse to go on where the stored draws would have been on other rungs.

        Traced and compiled code round differently, so a run that goes on would not be
        the run that it says it is.

        Args:
            where: the store.
            compile: as the run that goes on has it.
            num_samples: that it asks for.

        Raises:
            CheckpointError: the stored draws do not agree with it.
        """
        if compile == "auto":
            short = self.below is None or num_samples < self.below
            if short and self.least <= num_samples:
                return
        elif self.since == (0 if compile else None):
            return
        expected, todo = self._agreeing()
        raise CheckpointError(
            "the stored draws were made on other rungs",
            where=f"{where}, argument compile",
            found=f"{compile!r} and num_samples={num_samples}",
            expected=expected,
            todo=todo,
        )

    def _agreeing(self) -> tuple[str, str]:
        """What agrees with the stored draws, and what to do."""
        limit = "" if self.below is None else f" with num_samples below {self.below}"
        if self.since is None:
            expected = f"False, or 'auto'{limit}"
            return expected, "Pass compile=False: all stored draws are traced."
        if self.since == 0:
            return "True", "Pass compile=True: all stored draws are compiled."
        expected = f"'auto'{limit}{' and' if limit else ' with num_samples'}"
        expected += f" at least {self.least}"
        todo = "Ask for so many draws, or begin a new run: the first stored draws are "
        return expected, f"{todo}traced and the others compiled."
