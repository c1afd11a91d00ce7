"""Discrete latents of many chains at once, from a generator or from given noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.density.model import ModelDensity

if TYPE_CHECKING:
    from pyro_geo.density.target import Target

__all__ = ["sample_discrete"]


def sample_discrete(
    target: Target,
    q: Tensor,
    noise: torch.Generator | Tensor | None,
    *,
    likeliest: bool,
) -> dict[str, Tensor]:
    """Draw all discrete latents at each position, or take their likeliest values.

    Args:
        target: the density.
        q: positions, `(chains, dim)`.
        noise: see :meth:`pyro_geo.Target.sample_discrete`.
        likeliest: whether to draw nothing.

    Returns:
        Site to values, `(chains, *site.shape)`.
    """
    density, data = target.density, target.data
    if not isinstance(density, ModelDensity):
        return {}
    if likeliest:
        return target.map(lambda one: density.sample_discrete(one, data, None), q)
    shape = (len(q), target.num_discrete)
    if not isinstance(noise, Tensor):
        noise = torch.rand(shape, dtype=target.dtype, generator=noise)
    check_shape("noise", noise.shape, shape)
    inside = bool(((noise >= 0) & (noise < 1)).all())
    check(inside, "noise", "other numbers", "numbers of at least 0 and below 1")
    noise = noise.to(q)
    return target.map(lambda one, u: density.sample_discrete(one, data, u), q, noise)
