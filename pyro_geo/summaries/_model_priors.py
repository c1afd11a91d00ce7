"""The prior of a model as a normal distribution in unconstrained space."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.models import check_model, explained_data
from pyro_geo.errors import FallbackWarning
from pyro_geo.geometry.curvature import PriorHessian
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.fits.draws import FlatDraws
from pyro_geo.infer.fits.guides import Moments
from pyro_geo.infer.fits.precisions import factored

__all__ = ["read_prior"]

_SAME = 1e-8  # relative difference of two Hessians that is rounding


def read_prior(
    model: Any, args: Any, kwargs: dict[str, Any], num_draws: int, seed: int
) -> Moments:
    """Read the prior: exactly where it is normal, else by moments of draws.

    Args:
        model: the model.
        args: its arguments.
        kwargs: its keyword arguments.
        num_draws: where they are needed.
        seed: of the draws.

    Returns:
        Its moments.

    Warns:
        FallbackWarning: moments were matched.
    """
    check_model(model, "GaussianPosterior.from_prior")
    with explained_data(args, kwargs):
        target = Target.from_model(
            model, *args, dtype=torch.float64, compile=False, **kwargs
        )
    if (exact := _exact(target)) is not None:
        return exact
    note = "The prior is not normal in unconstrained space; its moments were matched."
    warnings.warn(
        FallbackWarning(
            "the moments of a prior were matched",
            where="argument model",
            found="a prior that is not normal in unconstrained space",
            expected="normal or log-normal sites",
            todo="Dividing by it is approximate: look at the product with care.",
        ),
        stacklevel=3,
    )
    generator = torch.Generator().manual_seed(seed)
    q = target.initial(num_draws, "prior", generator).double()
    draws = FlatDraws(q.unsqueeze(0), target.layout, None, float(num_draws))
    return Moments(*draws.moments(None, None), target.layout, (note,))


def _exact(target: Target) -> Moments | None:
    """Complete the square: a normal density has one Hessian and one mean."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(2, target.dim, generator=generator, dtype=torch.float64)
    places = places.to(target.device)
    first, second = (PriorHessian(target, q).dense() for q in places)
    size = first.abs().max()
    if not bool((first - second).abs().max() <= _SAME * size) or not bool(size > 0):
        return None
    slope = _prior_slope(target, places)
    precision = factored(first)
    means = places + precision.solve(slope)
    scale = torch.linalg.vector_norm(means[0]) + precision.solve(slope).norm()
    if not bool((means[0] - means[1]).norm() <= _SAME * (1 + scale)):
        return None
    off = first - first.diagonal().diag()
    if not bool(off.any()):
        return Moments(means[0], Diagonal(first.diagonal().sqrt()), target.layout)
    return Moments(means[0], precision, target.layout)


def _prior_slope(target: Target, q: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = q.detach().requires_grad_()
        (slope,) = torch.autograd.grad(target.log_prior(leaf).sum(), leaf)
    return slope
