"""Symmetric tridiagonal matrices whose cost is linear in their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from linear_operator.operators import DenseLinearOperator, LinearOperator
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.ops.arrays import to_numpy

__all__ = ["TridiagonalLinearOperator"]

_once: Any = torch.autograd.function.once_differentiable
_pttrf, _pttrs = get_lapack_funcs(("pttrf", "pttrs"), dtype=np.float64)


class TridiagonalLinearOperator(LinearOperator):
    r"""A symmetric tridiagonal matrix.

    .. math:: A_{tt} = a_t, \qquad A_{t,t+1} = A_{t+1,t} = b_t

    Products, solutions, log-determinants and draws take time and memory in proportion
    to the size. All but draws have derivatives with respect to both arguments, of first
    order. Solutions need a positive-definite matrix; they run on the processor, by
    LAPACK, in double precision.

    Args:
        main: the diagonal, `(*batch, n)`.
        side: the entries beside it, `(*batch, n - 1)`.

    Example:
        >>> a = TridiagonalLinearOperator(2 * torch.ones(3), -torch.ones(2))
        >>> a.solve(torch.ones(3, 1)).flatten().tolist()
        [1.5, 2.0, 1.5]
        >>> round(float(a.logdet().exp()), 4)
        4.0
    """

    def __init__(self, main: Tensor, side: Tensor) -> None:
        n = main.shape[-1]
        words = f"(*batch, {n - 1}) beside a diagonal of {n}"
        check_shape("side", side.shape, words, side.shape[-1:] == (n - 1,))
        batch = torch.broadcast_shapes(main.shape[:-1], side.shape[:-1])
        main, side = main.expand(*batch, n), side.expand(*batch, n - 1)
        super().__init__(main, side)
        self.main = main
        self.side = side

    def _size(self) -> torch.Size:
        return torch.Size([*self.main.shape, self.main.shape[-1]])

    def _transpose_nonbatch(self) -> TridiagonalLinearOperator:
        return self

    def _matmul(self, rhs: Tensor) -> Tensor:
        vector = rhs.dim() == 1
        columns = rhs.unsqueeze(-1) if vector else rhs
        main, side = self.main.unsqueeze(-1), self.side.unsqueeze(-1)
        found = main * columns
        below = torch.nn.functional.pad(side * columns[..., 1:, :], (0, 0, 0, 1))
        above = torch.nn.functional.pad(side * columns[..., :-1, :], (0, 0, 1, 0))
        found = found + below + above
        return found.squeeze(-1) if vector else found

    def _diagonal(self) -> Tensor:
        return self.main

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Any:
        if row_index == slice(None) == col_index:
            return super()._getitem(row_index, col_index, *batch_indices)
        dense = self.to_dense()[(*batch_indices, slice(None), slice(None))]
        return DenseLinearOperator(dense[..., row_index, :][..., col_index])

    def _expand_batch(self, batch_shape: Any) -> TridiagonalLinearOperator:
        main = self.main.expand(*batch_shape, self.main.shape[-1])
        return TridiagonalLinearOperator(main, self.side)

    def to_dense(self) -> Tensor:
        """The matrix itself, `(*batch, n, n)`."""
        side = torch.diag_embed(self.side, 1)
        return torch.diag_embed(self.main) + side + side.mT

    def solve(self, right_tensor: Tensor, left_tensor: Tensor | None = None) -> Tensor:
        r"""Solve :math:`A x = y`, or give :math:`z A^{-1} y`.

        Args:
            right_tensor: `y`, `(*batch, n, m)` or `(n,)`.
            left_tensor: `z`, `(*batch, k, n)`.

        Returns:
            The solution, of the shape of `y`; with `z`, `(*batch, k, m)`.
        """
        vector = right_tensor.dim() == 1
        columns = right_tensor.unsqueeze(-1) if vector else right_tensor
        batch = torch.broadcast_shapes(self.main.shape[:-1], columns.shape[:-2])
        found: Any = _Solve.apply(
            self.main.expand(*batch, -1),
            self.side.expand(*batch, -1),
            columns.expand(*batch, *columns.shape[-2:]),
        )
        found = found.squeeze(-1) if vector else found
        return found if left_tensor is None else left_tensor @ found

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `(*batch,)`."""
        value: Any = _LogDet.apply(self.main, self.side)
        return value

    def inv_quad_logdet(
        self,
        inv_quad_rhs: Tensor | None = None,
        logdet: bool | None = False,
        reduce_inv_quad: bool | None = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        r"""Give :math:`y' A^{-1} y` and the log-determinant; what is not asked is None.

        Args:
            inv_quad_rhs: `y`, `(*batch, n, m)`.
            logdet: whether the log-determinant is wanted.
            reduce_inv_quad: sum over the columns of `y`.

        Returns:
            The form, `(*batch,)` or `(*batch, m)`, and the log-determinant.
        """
        form = None
        if inv_quad_rhs is not None:
            columns = inv_quad_rhs.reshape(
                *inv_quad_rhs.shape, *[1] * (inv_quad_rhs.dim() == 1)
            )
            form = (columns * self.solve(columns)).sum(-2)
            form = form.sum(-1) if reduce_inv_quad else form
        return form, self.logdet() if logdet else None

    def zero_mean_mvn_samples(self, num_samples: int) -> Tensor:
        r"""Draw from :math:`N(0, A)`.

        Args:
            num_samples: how many draws.

        Returns:
            Draws, `(num_samples, *batch, n)`.
        """
        pivots, ratios = _on_arrays(_pivots, 1, self.main.detach(), self.side.detach())
        noise = torch.randn(num_samples, *self.main.shape).to(self.main)
        scaled = noise * pivots.sqrt()
        # A = (I + R) diag(pivots) (I + R)', with R below the diagonal
        return scaled + torch.nn.functional.pad(ratios * scaled[..., :-1], (1, 0))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, main: Tensor, side: Tensor, rhs: Tensor) -> Tensor:
        (found,) = _on_arrays(_solve, 2, main, side, rhs)
        ctx.save_for_backward(main, side, found)
        return found

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grads
        main, side, x = ctx.saved_tensors
        # x = A^-1 y, so that <grad, dx> = <A^-1 grad, dy - dA x>
        (back,) = _on_arrays(_solve, 2, main, side, grad)
        beside = back[..., :-1, :] * x[..., 1:, :] + back[..., 1:, :] * x[..., :-1, :]
        return -(back * x).sum(-1), -beside.sum(-1), back


class _LogDet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, main: Tensor, side: Tensor) -> Tensor:
        pivots, ratios = _on_arrays(_pivots, 1, main, side)
        ctx.save_for_backward(main, side, pivots, ratios)
        return pivots.log().sum(-1)

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grads
        main, side, pivots, ratios = ctx.saved_tensors
        # entries of A^-1 in the band, from the pivots of both directions
        reverse, _ = _on_arrays(_pivots, 1, main.flip(-1), side.flip(-1))
        inverse = 1 / (pivots + reverse.flip(-1) - main)
        beside = -ratios * inverse[..., 1:]
        return grad.unsqueeze(-1) * inverse, 2 * grad.unsqueeze(-1) * beside


def _pivots(main: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factorise into `(I + R) diag(pivots) (I + R)'`."""
    if not side.size:  # LAPACK's wrapper refuses empty arrays
        pivots, ratios, info = main, side, int(main[0] <= 0)
    else:
        pivots, ratios, info = _pttrf(main, side)
    if info or not np.isfinite(pivots).all():
        raise NotPositiveDefiniteError(
            "a tridiagonal matrix has no factor",
            where=f"row {abs(int(info)) - 1 if info else 0}",
            found="a pivot that is not positive",
            expected="a positive-definite matrix",
            todo="Check the signs and sizes of its entries.",
        )
    return pivots, ratios


def _solve(main: np.ndarray, side: np.ndarray, rhs: np.ndarray) -> tuple[np.ndarray]:
    pivots, ratios = _pivots(main, side)
    if not side.size:
        return (rhs / pivots[0],)
    return (_pttrs(pivots, ratios, rhs)[0],)


def _on_arrays(function: Any, event: int, *args: Tensor) -> tuple[Tensor, ...]:
    """Call a function of one matrix for each member of a batch."""
    batch = args[0].shape[:-1]
    events = (1, 1, event)
    flat = [
        to_numpy(arg.reshape(batch.numel(), *arg.shape[arg.dim() - axes :])).astype(
            float
        )
        for arg, axes in zip(args, events, strict=False)
    ]
    found = zip(*[function(*one) for one in zip(*flat, strict=True)], strict=True)
    return tuple(
        torch.from_numpy(np.stack(parts)).unflatten(0, batch or (1,)).to(args[0])
        if batch
        else torch.from_numpy(np.stack(parts)[0]).to(args[0])
        for parts in found
    )
