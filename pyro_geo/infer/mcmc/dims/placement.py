"""Where the anchors of a run come from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.density import Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.blocks import ChainGroup
from pyro_geo.infer.mcmc.dims.anchors import Anchors, examine_anchors, train_anchors
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

__all__ = ["find_anchors"]

AnchorValues = Tensor | Mapping[str, Tensor]

_MAX_ANCHOR_LANES = 64


def find_anchors(
    target: Target,
    group: ChainGroup,
    objective: Objective,
    options: DIMSOptions,
    values: AnchorValues | None,
    strategy: Strategy | None,
    normals: Tensor,
) -> Anchors:
    """Examine the user's anchors, or train one for each chain of a group.

    Args:
        target: the density.
        group: the chains, perhaps with starts of the training.
        objective: the loss.
        options: of the training.
        values: trained solutions of all chains, flat or by site.
        strategy: where the training starts; medians of the prior if None.
        normals: normal numbers for the search for saddles, `(chains, dim)`.

    Returns:
        The anchors of the group.
    """
    lanes = min(group.num_chains, _MAX_ANCHOR_LANES)
    chains = group.chains
    if values is not None:
        q = _one_per_chain(target, values, group.num_chains)[list(chains)]
        return examine_anchors(target, objective, q, options, lanes, chains, normals)
    starts = group.starts(target, strategy or target.default_strategy)
    return train_anchors(target, objective, starts, options, lanes, chains, normals)


def _one_per_chain(target: Target, values: AnchorValues, num_chains: int) -> Tensor:
    """Bring the user's anchors to `(num_chains, dim)`."""
    q = values if isinstance(values, Tensor) else target.unconstrain(values)
    q = torch.atleast_2d(q.detach())
    if q.shape[0] == 1:
        q = q.expand(num_chains, -1)
    expected = f"{(num_chains, target.dim)}, one anchor per chain, or one row"
    check_shape("anchors", q.shape, expected, q.shape == (num_chains, target.dim))
    return q.to(target.dtype)
