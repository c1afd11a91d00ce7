"""A kernel without a runner: warmed up once, then called for single blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_geo.density import Target
from pyro_geo.engine.blocks import Block
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.schedule import warm_up

if TYPE_CHECKING:
    from pyro_geo.testing.contracts import Case

__all__ = ["DrivenKernel", "drive"]


class DrivenKernel(NamedTuple):
    """A kernel driven by hand through its first two blocks."""

    kernel: Kernel
    target: Target
    chains: Sequence[int]
    draws: int
    state: Any

    def block(self, state: Any, index: int) -> Block:
        """Make the block of this number from a state."""
        noise = Noise(0).block(self.chains, index)
        return self.kernel.block(self.target, state, self.chains, self.draws, noise)


def drive(
    case: Case,
    chains: Sequence[int] | None = None,
    kernel: Kernel | None = None,
) -> DrivenKernel:
    """Warm a case's kernel up on the traced rung.

    Args:
        case: the case.
        chains: indices of the chains, all of them in order if None.
        kernel: another kernel than the case makes.

    Returns:
        The kernel, ready for its first block.
    """
    kernel = case.kernel(case.target) if kernel is None else kernel
    target = case.target.with_rung("traced")
    chains = range(case.chains) if chains is None else chains
    warmup = case.warmup
    if warmup is None:
        warmup = kernel.default_warmup(case.draws, case.chains)
    *_, warm = warm_up(
        kernel,
        lambda: target,
        chains,
        num_samples=case.draws,
        num_chains=case.chains,
        warmup_steps=warmup,
        noise=Noise(0, region=1),
    )
    draws = min(case.draws, kernel.block_draws(case.target, case.draws, case.chains))
    return DrivenKernel(kernel, target, chains, draws, warm.state)
