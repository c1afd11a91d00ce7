"""The Matern-5/2 kernel as a function of squared distances."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import MaternKernel
from torch import Tensor

__all__ = ["Matern52"]

_CACHED = 2**16  # entries: half a mebibyte


class Matern52(MaternKernel):
    r"""GPyTorch's Matern-5/2 kernel, in fewer passes over memory.

    .. math:: k = (1 + u + u^2 / 3)\, e^{-u}, \quad u = \sqrt{5 s}, \qquad
              \frac{dk}{ds} = -\tfrac56 (1 + u)\, e^{-u}

    As a function of the *squared* distance `s` it has no root whose derivative is
    infinite at zero.
    """

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor:
        """Covariances of two sets of inputs; GPyTorch calls this."""
        if diag or last_dim_is_batch:
            return super().forward(
                x1, x2, diag=diag, last_dim_is_batch=last_dim_is_batch, **params
            )
        same = x1 is x2
        first = x1 / self.lengthscale
        second = first if same else x2 / self.lengthscale
        found: Any = _Matern.apply(self.covar_dist(first, second, square_dist=True))
        return found


class _Matern(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, square: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(square)
            square = square.clone()
        else:
            ctx.mark_dirty(square)
        # a few rows at a time, which stay in the cache of the processor
        rows = square.view(-1, square.shape[-1])
        for part in rows.split(max(1, _CACHED // max(1, rows.shape[-1]))):
            u = part.mul_(5).sqrt_()
            decay = u.neg().exp_()
            part.copy_(u.div(3).add_(1).mul_(u).add_(1).mul_(decay))
        return square

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (square,) = ctx.saved_tensors
        u = (5 * square).sqrt()
        return grads[0] * (-5 / 6) * (1 + u) * torch.exp(-u)
