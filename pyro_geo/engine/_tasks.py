"""The unit of work: one block of one group of chains, a pure function."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor

from pyro_geo.density import Rung, Target
from pyro_geo.engine.kernel import Block, BlockKernel, Warmup
from pyro_geo.engine.noise import Noise

__all__ = ["Plan", "Task", "perform"]

_WARMUP = 1  # region of the noise


class Plan(NamedTuple):
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


class Task(NamedTuple):
    """One block of one group of chains.

    Attributes:
        kind: start the chains, adapt them, or draw.
        chains: which ones.
        block: its number; addresses its noise.
        rung: that it is to run on.
        state: where the chains are; None before they start.
        draws: to make of each chain.
        initial: given starts, `(chains, dim)`.
        tuning: of the first group.
    """

    kind: Literal["start", "adapt", "draw"]
    chains: range
    block: int
    rung: Rung
    state: Any = None
    draws: int = 0
    initial: Tensor | None = None
    tuning: Any = None


def perform(
    kernel: BlockKernel, target: Target, plan: Plan, task: Task
) -> Warmup | Block:
    """Do a task; what comes of it depends on the arguments alone.

    Args:
        kernel: the kernel.
        target: the density.
        plan: of the run.
        task: the task.

    Returns:
        A block of warm-up or of draws.
    """
    target = target.with_rung(task.rung)
    noise = Noise(plan.seed, 0 if task.kind == "draw" else _WARMUP)
    streams = noise.block(task.chains, task.block)
    if task.kind == "draw":
        return kernel.block(target, task.state, task.chains, task.draws, streams)
    if task.kind == "adapt":
        return kernel.adapt(target, task.state, task.chains, streams)
    return kernel.start(
        target,
        task.chains,
        num_samples=plan.num_samples,
        num_chains=plan.num_chains,
        warmup_steps=plan.warmup_steps,
        initial=task.initial,
        noise=streams,
        tuning=task.tuning,
    )
