"""Recurrences over time in logarithmically many batched steps.

A loop over time becomes a graph of as many nodes as there are times, and that takes
minutes to compile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["affine_scan", "log_matrix_product"]


class _AffineScan(torch.autograd.Function):
    """The recurrence with its adjoint, which is the same recurrence backwards.

    Differentiating the rounds instead makes a graph three times the size.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(shift: Tensor, factor: Tensor) -> Tensor:
        total, power, reach = shift.clone(), factor, 1
        while reach < len(shift):
            # joined, not padded: every part is then one contiguous loop
            later = total[reach:] + power * total[:-reach]
            total = torch.cat([total[:reach], later])
            power, reach = power * power, 2 * reach
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        factor, total = ctx.saved_tensors
        adjoint = affine_scan(grads[0].flip(0), factor).flip(0)
        return adjoint, (adjoint[1:] * total[:-1]).sum()


def affine_scan(shift: Tensor, factor: Tensor) -> Tensor:
    r"""All values of :math:`x_t = c_t + b\,x_{t-1}`, starting from :math:`x_1 = c_1`.

    By doubling: after :math:`k` rounds each value holds the last :math:`2^k` terms of
    its sum :math:`\sum_s b^s c_{t-s}`.

    Args:
        shift: :math:`c`, `(t,)`.
        factor: :math:`b`, `()`.

    Returns:
        The values, `(t,)`.

    Example:
        >>> affine_scan(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor(0.5)).tolist()
        [1.0, 0.5, 0.25, 1.125]
    """
    values: Any = _AffineScan.apply(shift, factor)
    return values


def log_matrix_product(logs: Tensor) -> Tensor:
    """Logarithm of the product of matrices that are given by their logarithms.

    Neighbours are multiplied in pairs, then the products, and so on. Every matrix is
    held as its logarithm's maximum and what is left: that takes one logarithm per
    product where adding up logarithms takes one exponential per term.

    Args:
        logs: `(t, k, k)`, in the order of the product.

    Returns:
        The product's logarithm, `(k, k)`.

    Example:
        >>> log_matrix_product(torch.ones(3, 2, 2).log()).exp()
        tensor([[4., 4.],
                [4., 4.]])
    """
    # the scales cancel from the result, so nothing is differentiated through them
    scale = logs.detach().amax((-2, -1), keepdim=True)
    matrices = (logs - scale).exp()
    while len(matrices) > 1:
        pairs = 2 * (len(matrices) // 2)
        left, right = _neighbours(matrices, pairs)
        product = (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)
        largest = product.detach().amax((-2, -1), keepdim=True)
        scales = sum(_neighbours(scale, pairs), largest.log())
        matrices = torch.cat([product / largest, matrices[pairs:]])
        scale = torch.cat([scales, scale[pairs:]])
    return matrices[0].log() + scale[0]


def _neighbours(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Every other one of the first `count` rows, and those between."""
    even, odd = rows[:count].reshape(count // 2, 2, *rows.shape[1:]).unbind(1)
    return even, odd
