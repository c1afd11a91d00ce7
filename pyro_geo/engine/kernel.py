"""What a kernel offers the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_geo.density import Rung, Target
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import PyroGeoWarning

__all__ = ["Block", "BlockKernel", "Warmup", "target_of"]


class Block(NamedTuple):
    """A fixed number of finished draws of some chains.

    Attributes:
        state: what the next block of the same chains starts from.
        q: draws, `(chains, draws, dim)`, unconstrained.
        stats: name to `(chains, draws)`.
        num_steps: batched steps taken; the ladder counts them.
        rung: rung that the step ran on.
    """

    state: Any
    q: Tensor
    stats: dict[str, Tensor]
    num_steps: int
    rung: Rung


class Warmup(NamedTuple):
    """Where some chains are after a block of warm-up.

    Attributes:
        state: what the next block, of warm-up or of draws, starts from.
        finished: whether draws can be made from here.
        iterations: steps of warm-up behind the chains, for the progress bar.
        num_steps: batched steps taken in this block; the ladder counts them.
        rung: rung that the step ran on; None where there was no step.
        progress: what the progress bar shows beside, by name.
    """

    state: Any
    finished: bool
    iterations: int = 0
    num_steps: int = 0
    rung: Rung | None = None
    progress: dict[str, str] = {}


@runtime_checkable
class BlockKernel(Protocol):
    """A kernel as the batched runner sees it.

    The runner does everything else between blocks: progress, interrupts, keeping
    draws, going up the ladder. A block depends on its arguments alone, so it can be
    run again, in another process, or in another order.
    """

    @property
    def stats(self) -> tuple[str, ...]:
        """Names of the statistics of each draw; a class attribute will do."""
        ...

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the works the kernel comes from."""
        ...

    @property
    def chain_name(self) -> str:
        """What a chain is, for the report."""
        ...

    @property
    def state_type(self) -> Any:
        """Type of the states; its annotations name all records that are in one."""
        ...

    def make_target(self, *args: Any, **kwargs: Any) -> Target:
        """Turn the model and the arguments of `run` into a density."""
        ...

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Evaluate anew what the statistic `lp` records, if there is such a one.

        A run that is resumed is compared with what it has stored.

        Args:
            target: the density.
            q: positions, `(draws, dim)`.
        """
        ...

    @property
    def max_lanes(self) -> int | None:
        """Most chains that run side by side; None leaves it to the runner."""
        ...

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """Warm-up steps where the user names none."""
        ...

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """Draws of each chain in one block, fixed for a run."""
        ...

    def start(
        self,
        target: Target,
        chains: Sequence[int],
        *,
        num_samples: int,
        num_chains: int,
        warmup_steps: int,
        initial: Tensor | None,
        noise: BlockNoise,
        tuning: Any | None,
    ) -> Warmup:
        """Start a group of chains.

        Args:
            target: the density.
            chains: indices of the chains of this group.
            num_samples: draws each chain will be asked for in all.
            num_chains: chains of the whole run.
            warmup_steps: steps of warm-up.
            initial: unconstrained starts, `(chains, dim)`, or None.
            noise: streams for the start.
            tuning: of the first group, which has finished its warm-up; None for the
                first group itself.
        """
        ...

    def adapt(
        self, target: Target, state: Any, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Make one block of warm-up; asked again until it says it is finished."""
        ...

    def tuning(self, state: Any) -> Any | None:
        """What the first group found out for all others; None if nothing."""
        ...

    def block(
        self,
        target: Target,
        state: Any,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make the next `draws` draws of each chain."""
        ...

    def review(
        self, states: Sequence[Any], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Say what a user must know of finished draws.

        Args:
            states: last state of every group of chains.
            stats: name to `(chains, draws)`.
        """
        ...

    def describe(self, states: Sequence[Any]) -> dict[str, str | int | float]:
        """Facts about the run worth recording with the draws, by name.

        Args:
            states: last state of every group of chains.
        """
        ...


def target_of(
    model: Callable[..., Any] | Target,
    *args: Any,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Target:
    """Turn a kernel's model and its arguments into a density.

    Args:
        model: a Pyro model, or a finished target.
        *args: the model's arguments; for a target new data, or none.
        dtype: floating type of a model's target, torch's default if None.
        **kwargs: the model's keyword arguments.

    Returns:
        The density.
    """
    if not isinstance(model, Target):
        return Target.from_model(model, *args, dtype=dtype, **kwargs)
    return model.with_data(*args, **kwargs) if args or kwargs else model
