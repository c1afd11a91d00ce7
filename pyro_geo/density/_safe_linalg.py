"""Functions of torch that fail for a whole batch, made to fail for one chain.

A factorisation raises if a single matrix of the batch has none. Here the chain with
that matrix gets NaN, which counts as infinite energy, and every other chain gets its
own result. Some writes in place have no rule under `vmap`; they are done out of place.
Some functions have a second derivative of NaN where they are as good as linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mish, softplus

__all__ = ["REPLACED"]


def _where(failed: Tensor, result: Tensor, axes: int) -> Tensor:
    """Put NaN where a matrix of the batch failed, over the last `axes` axes."""
    return torch.where(failed[(..., *[None] * axes)], torch.nan, result)


def _cholesky(a: Tensor, upper: bool = False) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(a, upper=upper)
    return _where(info > 0, factor, 2)


def _inverse(a: Tensor) -> Tensor:
    inverse, info = torch.linalg.inv_ex(a)
    return _where(info > 0, inverse, 2)


def _solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    result, info = torch.linalg.solve_ex(a, b, left=left)
    # torch takes `b` as a batch of vectors if it has the batch shape of `a`
    vector = b.dim() == 1 or b.shape == a.shape[:-1]
    return _where(info > 0, result, 1 if vector else 2)


def _on_finite(fn: Callable[..., Any], *axes: int) -> Callable[..., Any]:
    """Keep matrices that are not finite from a decomposition that raises on them.

    Args:
        fn: function of a matrix to a tensor or a named tuple of them.
        *axes: how many axes of each result are no batch axes.

    Returns:
        The function, NaN where the matrix is not finite.
    """

    def guarded(a: Tensor, *args: Any, **kwargs: Any) -> Any:
        # decompose the identity instead, then overwrite the result
        bad = ~a.isfinite().all(-1).all(-1)
        eye = torch.eye(*a.shape[-2:], dtype=a.dtype, device=a.device)
        factors = fn(torch.where(bad[..., None, None], eye, a), *args, **kwargs)
        if isinstance(factors, Tensor):
            return _where(bad, factors, axes[0])
        parts = zip(factors, axes, strict=True)  # a named tuple, (values, vectors) say
        return type(factors)([_where(bad, part, n) for part, n in parts])

    return guarded


def _set_item(x: Tensor, index: Any, value: Any) -> None:
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        if index.shape == x.shape and not isinstance(value, Tensor):
            x.masked_fill_(index, value)  # an index by mask has a shape of its own
            return
    x[index] = value


def _clamp_(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(x.clamp(*args, **kwargs))


def _scatter_(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(x.scatter(*args, **kwargs))


def _scatter_add_(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(x.scatter_add(*args, **kwargs))


def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Take the next number of the source wherever the mask holds."""
    x, mask = torch.broadcast_tensors(x, mask)
    place = (mask.flatten().cumsum(0) - 1).clamp(min=0)
    return torch.where(mask, source.flatten()[place].reshape(mask.shape), x)


def _masked_scatter_(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    return x.copy_(_masked_scatter(x, mask, source))


def _deepcopy(x: Tensor, memo: dict[int, Any]) -> Tensor:
    """Copy a tensor by its values; torch copies its storage, which has no trace."""
    if id(x) not in memo:
        memo[id(x)] = x.detach().clone()
    return memo[id(x)]


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """Log of the sum of two exponentials, twice differentiable everywhere.

    Torch's own has a second derivative of zero times infinity where the terms differ
    by more than an exponential can hold, as far from all modes but one of a mixture.

    Returns:
        The logarithm, of the broadcast shape.
    """
    a, b = torch.broadcast_tensors(a, b)
    larger, smaller = torch.where(a >= b, a, b), torch.where(a >= b, b, a)
    # equal infinities have no difference
    plain = (larger == smaller) & larger.isinf()
    gap = torch.where(plain, 0.0, larger) - torch.where(plain, 0.0, smaller)
    return torch.where(plain, larger, larger - logsigmoid(gap))


def _logaddexp2(a: Tensor, b: Tensor) -> Tensor:
    unit = math.log(2)
    return _logaddexp(a * unit, b * unit) / unit


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * softplus(x).tanh()


_DATA: Any = torch.Tensor.data  # a descriptor

REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.linalg.cholesky: _cholesky,
    torch.cholesky: _cholesky,
    torch.Tensor.cholesky: _cholesky,
    torch.linalg.inv: _inverse,
    torch.inverse: _inverse,
    torch.Tensor.inverse: _inverse,
    torch.linalg.solve: _solve,
    torch.linalg.eigh: _on_finite(torch.linalg.eigh, 1, 2),
    torch.linalg.eigvalsh: _on_finite(torch.linalg.eigvalsh, 1),
    torch.linalg.svd: _on_finite(torch.linalg.svd, 2, 1, 2),
    torch.linalg.svdvals: _on_finite(torch.linalg.svdvals, 1),
    torch.linalg.pinv: _on_finite(torch.linalg.pinv, 2),
    torch.logaddexp: _logaddexp,
    torch.Tensor.logaddexp: _logaddexp,
    torch.logaddexp2: _logaddexp2,
    torch.Tensor.logaddexp2: _logaddexp2,
    mish: _mish,
    torch.Tensor.__setitem__: _set_item,
    torch.Tensor.clamp_: _clamp_,
    torch.Tensor.scatter_: _scatter_,
    torch.Tensor.scatter_add_: _scatter_add_,
    torch.Tensor.masked_scatter: _masked_scatter,
    torch.Tensor.masked_scatter_: _masked_scatter_,
    torch.masked_scatter: _masked_scatter,
    torch.Tensor.__deepcopy__: _deepcopy,
    _DATA.__get__: torch.Tensor.detach,  # vmap has no `data`
}
"""Function to its replacement while a density is evaluated."""
