"""The multivariate normal by its covariance, with a gradient in closed form.

Differentiating through a Cholesky factorisation costs several triangular solves with
whole matrices. With the precision at hand the gradient is two products,

    d log p = 1/2 tr[(a a' - P) dS] - a' dy,    P = S^-1,  a = P y,

which is half the time of a Gaussian process of a few dozen points.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["normal_log_prob"]


def normal_log_prob(y: Tensor, covariance: Tensor) -> Tensor:
    r"""Log-density of a normal vector of mean zero.

    .. math:: -\tfrac12 y' \Sigma^{-1} y - \tfrac12 \log\det(2 \pi \Sigma)

    Twice differentiable, and mappable. A covariance that is not positive-definite
    gives NaN.

    Args:
        y: values, `(*batch, n)`.
        covariance: symmetric, `(*batch, n, n)`; the batches broadcast. If its type is
            not that of `y`, both are cast to the default one.

    Returns:
        The log-density, `(*batch,)`.

    Example:
        >>> y, eye = torch.tensor([1.0, 2.0]), torch.eye(2)
        >>> round(float(normal_log_prob(y, eye) + math.log(2 * math.pi)), 6)
        -2.5
    """
    if y.dtype != covariance.dtype:
        y = y.to(torch.get_default_dtype())
        covariance = covariance.to(y.dtype)
    n = y.shape[-1]
    batch = torch.broadcast_shapes(y.shape[:-1], covariance.shape[:-2])
    value = _Normal.apply(y.expand(*batch, n), covariance.expand(*batch, n, n))[0]
    return value - 0.5 * n * math.log(2 * math.pi)


class _Normal(torch.autograd.Function):
    """Log-density up to a constant, and two results that its derivatives need.

    These are the precision :math:`P` and the weights :math:`a = P y`. As outputs they
    have derivatives of their own, which makes the function twice differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, info = torch.linalg.cholesky_ex(covariance)
        # without a factor this chain gets NaN; the others are not affected
        factor = torch.where((info > 0)[..., None, None], torch.nan, factor)
        eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        white = inverse @ y.unsqueeze(-1)
        precision = inverse.mT @ inverse
        weights = (inverse.mT @ white).squeeze(-1)
        logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        # y' S^-1 y = |L^-1 y|^2 and log det S = 2 sum log diag L
        return -0.5 * white.square().sum((-2, -1)) - logs, precision, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], output[2])
        ctx.save_for_forward(output[1], output[2])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        precision, weights = ctx.saved_tensors
        of_y, of_covariance = tangents
        # d log p = 1/2 tr[(a a' - P) dS] - a' dy,  dP = -P dS P,  da = P dy - P dS a
        slope = torch.zeros_like(weights[..., 0])
        to_precision = torch.zeros_like(precision)
        to_weights = torch.zeros_like(weights)
        if of_y is not None:
            slope = slope - (weights * of_y).sum(-1)
            to_weights = to_weights + (precision @ of_y.unsqueeze(-1)).squeeze(-1)
        if of_covariance is not None:
            turned = (of_covariance @ weights.unsqueeze(-1)).squeeze(-1)
            trace = (precision * of_covariance).sum((-2, -1))
            slope = slope + 0.5 * ((weights * turned).sum(-1) - trace)
            to_precision = to_precision - precision @ of_covariance @ precision
            to_weights = to_weights - (precision @ turned.unsqueeze(-1)).squeeze(-1)
        return slope, to_precision, to_weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor]:
        precision, weights = ctx.saved_tensors
        value, of_precision, of_weights = grads
        to_y = torch.zeros_like(weights)
        to_covariance = torch.zeros_like(precision)
        # the adjoints of the three differentials that `jvp` has
        if value is not None:
            outer = weights.unsqueeze(-1) * weights.unsqueeze(-2)
            to_covariance = 0.5 * value[..., None, None] * (outer - precision)
            to_y = -value.unsqueeze(-1) * weights
        if of_weights is not None:  # of a second derivative
            back = (precision @ of_weights.unsqueeze(-1)).squeeze(-1)
            to_y = to_y + back
            outer = back.unsqueeze(-1) * weights.unsqueeze(-2)
            to_covariance = to_covariance - 0.5 * (outer + outer.mT)  # symmetric part
        if of_precision is not None:
            symmetric = 0.5 * (of_precision + of_precision.mT)
            to_covariance = to_covariance - precision @ symmetric @ precision
        return to_y, to_covariance
