"""What HMC carries from block to block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.hmc.adaptation import Adaptation, Tuning
from pyro_geo.infer.transition import ChainState

__all__ = ["HMCState"]

_ENOUGH_DRAWS = 10  # from which on a chain that has not moved is stuck


class HMCState(NamedTuple):
    """Chains, and what is known about them.

    Attributes:
        chains: where they are.
        tuning: frozen; None while it is still being found.
        adaptation: warm-up under way, of the first group.
        burn_in: transitions left before draws count, of the other groups.
        made: transitions since the warm-up; decides the jitter.
        restarted: number of chains that warm-up restarted at others.
        away: number of chains that had not arrived where the mass is after it.
        target: acceptance rate that the step size was adapted to.
        moved: whether each chain has accepted a transition since the warm-up,
            `(chains,)`.
        unroll: leapfrog steps in one graph.
        superchains: sets of chains with one start; 0 for none.
    """

    chains: ChainState
    tuning: Tuning | None
    adaptation: Adaptation | None
    burn_in: int
    made: int
    restarted: int
    away: int
    target: float
    moved: Tensor
    unroll: int
    superchains: int

    @classmethod
    def at(
        cls,
        chains: ChainState,
        tuning: Tuning | None,
        target: float,
        unroll: int,
        superchains: int,
    ) -> HMCState:
        """Begin where the chains are, before any transition.

        Args:
            chains: where they start.
            tuning: of the first group; None for that group itself.
            target: acceptance rate.
            unroll: leapfrog steps in one graph.
            superchains: sets of chains with one start; 0 for none.

        Returns:
            The state.
        """
        still = torch.zeros_like(chains.potential, dtype=torch.bool)
        return cls(
            chains,
            tuning,
            adaptation=None,
            burn_in=0,
            made=0,
            restarted=0,
            away=0,
            target=target,
            moved=still,
            unroll=unroll,
            superchains=superchains,
        )

    def still(self) -> HMCState:
        """The same state with no move counted yet."""
        return self._replace(moved=torch.zeros_like(self.moved))

    @property
    def lost(self) -> int:
        """Number of chains whose density has never been finite."""
        return int((~self.chains.potential.isfinite()).sum())

    @property
    def stuck(self) -> int:
        """Number of other chains that have not moved in draws enough to tell."""
        here = self.chains.potential.isfinite()
        return int((here & ~self.moved).sum()) if self.made >= _ENOUGH_DRAWS else 0
