"""Gradient and curvature of what goes, averaged over a normal distribution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.partial import weigh
from pyro_geo.geometry.curvature import GaussNewton
from pyro_geo.unlearning._parts import Parts

__all__ = ["Kind", "averages"]

Kind = Literal["auto", "hessian", "gauss_newton"]

_LARGEST = 512  # coordinates for whose Hessians there is time
_POINTS = 16  # where Gauss-Newton matrices are taken, each on its own
_ROWS = 256  # products in one batched backward pass
_NUMBERS = 1 << 22  # log-likelihoods differentiated at once


def averages(parts: Parts, q: Tensor, kind: Kind = "auto") -> tuple[Tensor, Tensor]:
    r"""Average the gradient and the curvature of the log-likelihood of what goes.

    .. math:: a = E \nabla \log p(F \mid q), \qquad K = -E \nabla^2 \log p(F \mid q)

    Args:
        parts: the density.
        q: positions to average over, `(points, dim)`.
        kind: of the curvature; `"auto"` takes the Hessian up to 512 coordinates.

    Returns:
        Both in double precision, `(dim,)` and `(dim, dim)`.
    """
    dim = q.shape[1]
    if kind == "auto":
        kind = "hessian" if dim <= _LARGEST else "gauss_newton"
    slope = torch.zeros(dim, dtype=torch.float64, device=q.device)
    curved = torch.zeros(dim, dim, dtype=torch.float64, device=q.device)
    second = kind == "hessian"
    size = max(1, _NUMBERS // (max(1, parts.forget.num_data) * (dim if second else 1)))
    for part in q.split(size):
        one, two = _sums(parts, part, second)
        slope, curved = slope + one, curved - two
    if second:
        curved = curved / len(q)
    else:
        chosen = q[:: max(1, len(q) // _POINTS)]
        alone = _alone(parts)
        for point in chosen:
            curved += GaussNewton(alone, point.to(alone.dtype)).dense().double()
        curved = curved / len(chosen)
    return slope / len(q), 0.5 * (curved + curved.mT)


def _sums(parts: Parts, q: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the sum over positions, by a shift of all of them."""
    dim = q.shape[1]
    with torch.enable_grad():
        shift = torch.zeros(dim, dtype=q.dtype, device=q.device, requires_grad=True)
        total = parts.forgotten(q.detach() + shift).sum()
        (slope,) = torch.autograd.grad(total, shift, create_graph=second)
    hessian = torch.zeros(dim, dim, dtype=q.dtype, device=q.device)
    if second and slope.requires_grad:
        eye = torch.eye(dim, dtype=q.dtype, device=q.device)
        rows = [
            torch.autograd.grad(
                slope, shift, part, is_grads_batched=True, retain_graph=True
            )[0]
            for part in eye.split(_ROWS)
        ]
        hessian = torch.cat(rows)
    return slope.detach().double(), hessian.double()


def _alone(parts: Parts) -> Target:
    """Density of the data that go, beside the prior."""
    weights = {name: mask.to(torch.float64) for name, mask in parts.masks.items()}
    return weigh(parts.target, weights)
