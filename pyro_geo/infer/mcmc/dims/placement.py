"""Where the anchors of a run come from, and the sites of a potential function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.density import Layout, Site, Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.blocks import ChainGroup
from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.infer.mcmc.dims.anchors import Anchors, examine_anchors, train_anchors
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

__all__ = ["find_anchors", "layout_of_anchors"]

AnchorValues = Tensor | Mapping[str, Tensor]

_MAX_ANCHOR_LANES = 64


def find_anchors(
    target: Target,
    group: ChainGroup,
    objective: Objective,
    options: DIMSOptions,
    values: AnchorValues | None,
    strategy: Strategy | None,
) -> Anchors:
    """Examine the user's anchors, or train one for each chain of a group.

    Args:
        target: the density.
        group: the chains, perhaps with starts of the training.
        objective: the loss.
        options: of the training.
        values: trained solutions of all chains, flat or by site.
        strategy: where the training starts; medians of the prior if None.

    Returns:
        The anchors of the group.
    """
    lanes = min(group.num_chains, _MAX_ANCHOR_LANES)
    chains = group.chains
    if values is not None:
        q = _one_per_chain(target, values, group.num_chains)[list(chains)]
        return examine_anchors(target, objective, q, options, lanes, chains)
    starts = group.starts(target, strategy or target.default_strategy)
    return train_anchors(target, objective, starts, options, lanes, chains)


def _one_per_chain(target: Target, values: AnchorValues, num_chains: int) -> Tensor:
    """Bring the user's anchors to `(num_chains, dim)`."""
    q = values if isinstance(values, Tensor) else target.unconstrain(values)
    q = torch.atleast_2d(q.detach())
    if q.shape[0] == 1:
        q = q.expand(num_chains, -1)
    if q.shape != (num_chains, target.dim):
        raise ShapeError(
            "anchors do not match the chains",
            where="argument 'anchors'",
            found=f"{tuple(q.shape)}",
            expected=f"{(num_chains, target.dim)} or one row",
            todo="give one anchor per chain: num_chains says how many",
        )
    return q.to(target.dtype)


def layout_of_anchors(
    values: AnchorValues | None, transforms: Mapping[str, Any]
) -> Layout:
    """Lay the sites of a potential function out by the anchors that come with it.

    Args:
        values: constrained values, site to tensor.
        transforms: site to the map from constrained to unconstrained values.

    Returns:
        The layout.

    Raises:
        ConfigurationError: the anchors do not name sites.

    Example:
        >>> layout_of_anchors({"x": torch.zeros(2), "y": torch.zeros(())}, {}).dim
        3
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            "a potential function says nothing about its sites",
            where="argument 'anchors'",
            found=type(values).__name__,
            expected="a dictionary of values, site to tensor",
            todo="pass anchors by site, or a model",
        )
    sites: dict[str, Site] = {}
    start = 0
    for name, value in values.items():
        transform = torch.distributions.biject_to(constraints.real)
        if name in transforms:
            transform = transforms[name].inv
        shape = torch.Size(transform.inverse_shape(value.shape))
        sites[name] = Site(name, start, shape, value.shape, transform)
        start += shape.numel()
    return Layout(sites)
