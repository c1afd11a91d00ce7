"""How many chains start in each mode."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_geo.checks import check_choice

__all__ = ["Strategy", "share_chains"]

Strategy = Literal["weighted", "spread", "best"]


def share_chains(weights: Tensor, num_chains: int, strategy: Strategy) -> Tensor:
    """Share chains out among modes.

    By weight, each mode has at least one where there are enough; the rest goes, one
    chain after the other, to the mode whose share per chain is largest. That is the
    rule of Jefferson and D'Hondt, which never takes a chain away when there are more.

    Args:
        weights: of the modes, heaviest first, `(modes,)`.
        num_chains: how many.
        strategy: see :meth:`ModeSet.chain_modes`.

    Returns:
        The mode of each chain, ascending, `(num_chains,)`.

    Example:
        >>> share_chains(torch.tensor([0.7, 0.2, 0.1]), 6, "weighted").tolist()
        [0, 0, 0, 0, 1, 2]
    """
    check_choice("strategy", strategy, ("weighted", "spread", "best"))
    modes = len(weights)
    if strategy == "best":
        return torch.zeros(num_chains, dtype=torch.long)
    if strategy == "spread" or num_chains <= modes:
        return (torch.arange(num_chains) % modes).sort().values
    # of every mode, its second, third, ... chain, by what that chain stands for
    chains = torch.arange(1, num_chains - modes + 1)
    share = weights.cpu().double()[:, None] / (chains + 1)
    # ties go to the heavier mode, whatever the order of the sort
    ranked = share.flatten().sort(descending=True, stable=True).indices
    extra = ranked[: num_chains - modes] // len(chains)
    return torch.cat([torch.arange(modes), extra]).sort().values
