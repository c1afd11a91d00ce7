"""Divergences of bounded distributions from unbounded ones, for `kl_divergence`.

This module exports nothing: importing it registers the functions with torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, register_kl

from pyro_geo.distributions.bounded.constraint import whiten
from pyro_geo.distributions.bounded.normal import (
    BoundedMultivariateNormal,
    BoundedNormal,
)

__all__: list[str] = []


# With z whitened by the base of p, and y by q, the mean of log base(x) - log q(x) is
# (E y^2 - E z^2) / 2 + log(scale of q / scale of p). For q the base it is zero.


@register_kl(BoundedNormal, Normal)
def _kl_normal(p: BoundedNormal, q: Normal) -> Tensor:
    factor = p.variance_factor()
    ratio = p.scale / q.scale
    moved = ((p.loc - q.loc) / q.scale).square()
    gap = 0.5 * (factor * (ratio.square() - 1) + moved) - torch.log(ratio)
    return p.kl_to_base() + gap


@register_kl(BoundedMultivariateNormal, MultivariateNormal)
def _kl_multivariate(p: BoundedMultivariateNormal, q: MultivariateNormal) -> Tensor:
    factor = p.variance_factor()
    ratio = torch.linalg.solve_triangular(q.scale_tril, p.scale_tril, upper=False)
    moved = whiten(q.scale_tril, p.loc - q.loc).square().sum(-1)
    trace = ratio.square().sum((-2, -1)) - p.radial.dim
    log_ratio = ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return p.kl_to_base() + 0.5 * (factor * trace + moved) - log_ratio
