"""Sums of products of probabilities, kept in logarithms: an einsum for opt_einsum.

Pyro's own leaves log space to multiply, so that two factors which peak at different
values of a discrete site can underflow together; and its logarithm is an autograd
function that cannot be mapped over chains. Here every sum is a log-sum-exp of sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor

__all__ = ["einsum", "log_sum_exp", "tensordot", "transpose"]


def log_sum_exp(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Log of the sum of exponentials, with derivatives also where all are zero.

    Args:
        x: logarithms; minus infinity stands for zero.
        dims: axes to sum over, at least one.

    Returns:
        The logarithm, without these axes; minus infinity with derivative zero where
        every term is zero.

    Example:
        >>> import math
        >>> log_sum_exp(torch.tensor([math.log(0.25), math.log(0.5)]), (0,)).exp()
        tensor(0.7500)
    """
    shift = x.detach().amax(dims, keepdim=True)
    shift = shift.clamp(min=torch.finfo(x.dtype).min)  # not -inf minus -inf
    total = (x - shift).exp().sum(dims)
    empty = total == 0
    log = torch.where(empty, torch.ones_like(total), total).log()
    return torch.where(empty, -torch.inf, log + shift.squeeze(dims))


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Sum products of probabilities, given and returned as logarithms.

    Args:
        equation: as of `torch.einsum`, without repeated symbols in one operand.
        *operands: logarithms, an axis for each symbol.

    Returns:
        Logarithms, an axis for each symbol of the output.

    Example:
        >>> p = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
        >>> einsum("ij,j->i", p.log(), torch.zeros(2)).exp()
        tensor([0.3000, 0.7000])
    """
    # the sum over axes that the output lacks comes last, after all factors are added
    inputs, output = equation.split("->")
    names = inputs.split(",")
    summed = sorted(set("".join(names)) - set(output))
    symbols = [*output, *summed]
    total = _aligned(operands[0], names[0], symbols)
    for operand, name in zip(operands[1:], names[1:], strict=True):
        total = total + _aligned(operand, name, symbols)
    if summed:
        return log_sum_exp(total, tuple(range(len(output), len(symbols))))
    # the caller writes the names of axes on the result: never on an operand
    return total.clone() if len(operands) == 1 else total


def _aligned(operand: Tensor, names: str, symbols: Sequence[str]) -> Tensor:
    """Bring the axes into the order of `symbols`, of length one where missing."""
    operand = operand.permute([names.index(s) for s in symbols if s in names])
    sizes = iter(operand.shape)
    return operand.reshape([next(sizes) if s in names else 1 for s in symbols])


def transpose(a: Tensor, axes: Sequence[int]) -> Tensor:
    """Permute the axes of a tensor, as opt_einsum asks a backend for."""
    return a.permute(*axes)


tensordot = Tensordot(einsum)
"""Contract two tensors of logarithms, as opt_einsum asks a backend for."""
