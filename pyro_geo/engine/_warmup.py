"""The start and the warm-up of a group of chains, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.kernel import BlockKernel, Warmup
from pyro_geo.engine.noise import Noise

__all__ = ["warm_up"]


def warm_up(
    kernel: BlockKernel,
    target: Callable[[], Target],
    chains: Sequence[int],
    *,
    num_samples: int,
    num_chains: int,
    warmup_steps: int,
    noise: Noise,
    initial: Tensor | None = None,
    tuning: Any | None = None,
) -> Iterator[Warmup]:
    """Start a group of chains and adapt until its kernel has finished.

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

    Yields:
        What each block brought; the last one is finished.
    """
    now = kernel.start(
        target(),
        chains,
        num_samples=num_samples,
        num_chains=num_chains,
        warmup_steps=warmup_steps,
        initial=initial,
        noise=noise.block(chains, 0),
        tuning=tuning,
    )
    yield now
    index = 1
    while not now.finished:
        now = kernel.adapt(target(), now.state, chains, noise.block(chains, index))
        yield now
        index += 1
