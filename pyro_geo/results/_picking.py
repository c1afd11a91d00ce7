"""Samples of a result: all draws, some at random, or resampled ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.ops.chunks import Sites
from pyro_geo.results.draws import Draws
from pyro_geo.results.weights import Weights, equal_rows

__all__ = ["pick", "pick_rows"]


def pick(
    draws: Draws,
    names: Sequence[str],
    weights: Weights | None,
    num_samples: int | None,
    group_by_chain: bool,
    seed: int,
) -> Sites:
    """Pick draws of equal weight.

    Args:
        draws: to pick from.
        names: of the sites.
        weights: to honour, None for equal ones.
        num_samples: how many at random, by torch's global generator; None for as many
            as there are.
        group_by_chain: whether to keep chains apart; resampled draws are one chain.
        seed: what resampled draws are a function of.

    Returns:
        Site to `(chains * draws, *shape)`, or `(chains, draws, *shape)`.
    """
    if weights is not None:
        if num_samples is None:
            rows = equal_rows(weights.flat, seed)
        else:
            rows = weights.drawn(num_samples)
        picked = pick_rows(draws, names, rows)
        if group_by_chain:
            return {name: value.unsqueeze(0) for name, value in picked.items()}
        return picked
    # with chains kept apart the same draws are picked from each
    total = draws.num_draws * (1 if group_by_chain else draws.num_chains)
    rows = None if num_samples is None else torch.randint(total, (num_samples,))
    if not group_by_chain:
        return pick_rows(draws, names, rows)
    sites = draws.sites(names)
    if rows is None:
        return sites
    return {name: value[:, rows.to(value.device)] for name, value in sites.items()}


def pick_rows(draws: Draws, names: Sequence[str], rows: Tensor | None) -> Sites:
    """Pick draws by their numbers, counted through all chains.

    Args:
        draws: to pick from.
        names: of the sites.
        rows: numbers, `(count,)`; None for all draws in their order.

    Returns:
        Site to `(count, *shape)`.
    """
    sites = draws.sites(names)
    flat = {name: value.flatten(0, 1) for name, value in sites.items()}
    if rows is None:
        return flat
    return {name: value[rows.to(value.device)] for name, value in flat.items()}
