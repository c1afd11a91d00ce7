"""Factors of covariances, and the evidence that they give."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_geo.errors import NotPositiveDefiniteError

__all__ = ["evidence", "factor", "log_normal"]

_once: Any = torch.autograd.function.once_differentiable
_JITTERS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


def factor(covariance: Tensor, where: str = "covariance of the rewards") -> Tensor:
    """Factorise, and add to the diagonal what it takes, up to 1e-4 of its mean.

    Args:
        covariance: symmetric, `(*batch, n, n)`; derivatives flow back to it.
        where: what it is, for the message.

    Returns:
        Lower triangular factors, `(*batch, n, n)`.

    Raises:
        NotPositiveDefiniteError: it takes more than that.
    """
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).detach().abs()
    failed = torch.ones_like(size)
    for jitter in _JITTERS:
        added = covariance
        if jitter:  # only where it is needed
            added = covariance + torch.diag_embed(
                (jitter * size * failed).expand(covariance.shape[:-1])
            )
        found, info = torch.linalg.cholesky_ex(added)
        bad = info.unsqueeze(-1) > 0
        if not bool(bad.any()) and bool(
            found.diagonal(dim1=-2, dim2=-1).isfinite().all()
        ):
            return found
        failed = torch.maximum(failed * (jitter > 0), bad.to(size))
    raise NotPositiveDefiniteError(
        "a covariance has no Cholesky factor",
        where=where,
        found=f"failure after adding {_JITTERS[-1]:g} of its mean diagonal",
        expected="a positive-definite matrix of finite numbers",
        todo="Use float64, more noise, or shorter lengthscales.",
    )


def log_normal(residual: Tensor, covariance: Tensor) -> Tensor:
    r"""Log-density of a normal vector of mean zero, with its derivative in closed form.

    .. math:: -\tfrac12 y' Q^{-1} y - \tfrac12 \log\det(2 \pi Q)

    Differentiable once. The derivative takes one inverse, of a third of the work of
    differentiating through the factorisation.

    Args:
        residual: the vector, `(*batch, n)`.
        covariance: its covariance, `(*batch, n, n)`.

    Returns:
        The log-density, `(*batch,)`.
    """
    batch = torch.broadcast_shapes(residual.shape[:-1], covariance.shape[:-2])
    n = residual.shape[-1]
    value: Any = _LogNormal.apply(
        residual.expand(*batch, n), covariance.expand(*batch, n, n)
    )
    return value


def evidence(residual: Tensor, lower: Tensor) -> Tensor:
    """Log-density of a normal vector whose covariance is factorised, `(*batch,)`."""
    white = torch.linalg.solve_triangular(lower, residual.unsqueeze(-1), upper=False)
    logs = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    n = residual.shape[-1]
    return -0.5 * white.square().sum((-2, -1)) - logs - 0.5 * n * math.log(2 * math.pi)


class _LogNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, covariance: Tensor) -> Tensor:
        lower = factor(covariance)
        ctx.save_for_backward(residual, lower)
        return evidence(residual, lower)

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grads
        residual, lower = ctx.saved_tensors
        weights = torch.cholesky_solve(residual.unsqueeze(-1), lower)
        # d log p = 1/2 tr[(a a' - Q^-1) dQ] - a' dy, with a = Q^-1 y
        slope = (weights @ weights.mT - torch.cholesky_inverse(lower)).mul_(0.5)
        return -grad.unsqueeze(-1) * weights.squeeze(-1), grad[..., None, None] * slope
