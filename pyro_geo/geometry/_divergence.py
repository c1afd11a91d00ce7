"""Divergences between distributions of one family, made to be differentiated twice.

What matters is the Hessian where both arguments meet: it must be the Fisher
information, and a batched backward pass must be able to follow. Torch's own
Kullback-Leibler divergences serve most families; the others are written out here.
"""

from __future__ import annotations

from typing import Any, NoReturn

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_geo._compat.pyro import mask_of
from pyro_geo._compat.torch import categorical_of
from pyro_geo.errors import MissingCurvatureError

__all__ = ["divergence"]

# Their support moves with their parameters, so that no Fisher information exists.
_IRREGULAR = (
    torch.distributions.Uniform,
    torch.distributions.Pareto,
    dist.Delta,
)


def divergence(name: str, fixed: Any, moving: Any) -> Tensor:
    """Measure how far one distribution has moved from another of its family.

    Args:
        name: the site, for the message.
        fixed: the distribution at the expansion point, without gradients.
        moving: the same distribution elsewhere.

    Returns:
        Non-negative to second order, of the distributions' batch shape. A family
        without one raises :class:`~pyro_geo.errors.MissingCurvatureError`.
    """
    if isinstance(fixed, dist.MaskedDistribution):
        inner = divergence(name, fixed.base_dist, moving.base_dist)
        masked: Any = scale_and_mask(inner, mask=mask_of(fixed))
        return masked
    if isinstance(fixed, torch.distributions.Independent):
        inner = divergence(name, fixed.base_dist, moving.base_dist)
        total: Any = sum_rightmost(inner, fixed.reinterpreted_batch_ndims)
        return total
    if isinstance(fixed, _IRREGULAR):
        _refuse(name, fixed)
    if isinstance(fixed, torch.distributions.OneHotCategorical):
        return _categorical(categorical_of(fixed), categorical_of(moving))
    if isinstance(fixed, torch.distributions.Categorical):
        return _categorical(fixed, moving)
    if isinstance(fixed, torch.distributions.Multinomial):
        trials = fixed.total_count
        return trials * _categorical(categorical_of(fixed), categorical_of(moving))
    if isinstance(fixed, torch.distributions.Bernoulli | torch.distributions.Binomial):
        trials = getattr(fixed, "total_count", 1)
        score = torch.nn.functional.softplus(moving.logits)
        return trials * (score - fixed.probs * moving.logits)
    if isinstance(fixed, torch.distributions.StudentT):
        return _student(fixed, moving)
    if isinstance(fixed, torch.distributions.TransformedDistribution) and any(
        _depends(transform) for transform in moving.transforms
    ):
        # torch compares the bases alone: the moving transform would count as fixed
        _refuse(name, fixed)
    try:
        return kl_divergence(fixed, moving)
    except NotImplementedError:
        _refuse(name, fixed)


def _categorical(fixed: Any, moving: Any) -> Tensor:
    # torch's own version writes in place, which batched backward cannot follow
    gap = torch.where(fixed.probs > 0, fixed.logits - moving.logits, 0.0)
    return (fixed.probs * gap).sum(-1)


def _student(fixed: Any, moving: Any) -> Tensor:
    r"""Half the Fisher quadratic form in location, scale and degrees of freedom.

    Lange, Little & Taylor (1989), Robust statistical modeling using the t
    distribution, appendix B; scale and degrees of freedom are not orthogonal.

    Returns:
        The form, of the batch shape.
    """
    df, scale = fixed.df, fixed.scale
    shift = (moving.loc - fixed.loc) / scale
    stretch = (moving.scale - scale) / scale
    result = (df + 1) / (df + 3) * shift**2 / 2 + df / (df + 3) * stretch**2
    if not moving.df.requires_grad:
        return result
    # differences of trigammas cancel: four digits are lost at 100 degrees of freedom
    nu = df.double()
    cross = -2 / ((nu + 1) * (nu + 3))
    own = (torch.polygamma(1, nu / 2) - torch.polygamma(1, (nu + 1) / 2)) / 4
    own = own - (nu + 5) / (2 * nu * (nu + 1) * (nu + 3))
    least = cross**2 / (2 * nu / (nu + 3))  # below it the form would not be convex
    own = torch.maximum(own, least)
    extra = moving.df - df
    return result + own.to(df) * extra**2 / 2 + cross.to(df) * stretch * extra


def _depends(transform: Any) -> bool:
    """Whether a parameter of the transform follows the latents."""
    parts = [*vars(transform).values(), *getattr(transform, "parts", ())]
    return any(
        part.requires_grad
        if isinstance(part, Tensor)
        else isinstance(part, torch.distributions.Transform) and _depends(part)
        for part in parts
    )


def _refuse(name: str, fixed: Any) -> NoReturn:
    raise MissingCurvatureError(
        "no divergence is known for an observed site",
        where=f"site {name!r}",
        found=type(fixed).__name__,
        expected="a regular family with a Kullback-Leibler divergence in torch",
        todo="Use isotropic or fixed-energy velocities.",
    )
