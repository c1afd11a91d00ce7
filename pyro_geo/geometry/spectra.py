"""Eigenvalues, leading directions and floors of positive-definite matrices."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.errors import EigengapWarning
from pyro_geo.geometry._pairs import double, floor_of, symmetric
from pyro_geo.geometry.kronecker import Block, Kronecker
from pyro_geo.geometry.matrices import (
    Dense,
    Diagonal,
    LowRank,
    PositiveDefinite,
    Spectral,
)

__all__ = [
    "Leading",
    "effective_rank",
    "eigenvalues",
    "floored",
    "leading",
    "principal_angles",
    "trace",
]

_GAP = 0.05


class Leading(NamedTuple):
    """Directions of the largest eigenvalues.

    Attributes:
        vectors: orthonormal columns, `(dim, k)`.
        values: their eigenvalues, falling, `(k,)`.
        gap: how far the next eigenvalue is below the last of them, as a share of it.
    """

    vectors: Tensor
    values: Tensor
    gap: float


def eigenvalues(matrix: PositiveDefinite) -> Tensor:
    """All eigenvalues, rising, in double precision.

    Args:
        matrix: of any form; it may be singular.

    Returns:
        `(dim,)`. Products, sums and low ranks above a constant are not written out.

    Example:
        >>> eigenvalues(Diagonal(torch.tensor([2.0, 1.0]))).tolist()
        [1.0, 4.0]
    """
    return _eigenvalues(double(matrix)).sort().values


def _eigenvalues(matrix: PositiveDefinite) -> Tensor:
    if isinstance(matrix, Block):
        return torch.cat([_eigenvalues(part) for part in matrix.parts.values()])
    if isinstance(matrix, Kronecker):
        parts = [_eigenvalues(factor) for factor in matrix.factors]
        return functools.reduce(lambda x, y: torch.outer(x, y).flatten(), parts)
    if isinstance(matrix, Diagonal):
        return matrix.scale.square()
    if isinstance(matrix, Spectral):
        return matrix.values
    floor = floor_of(matrix)
    if isinstance(matrix, LowRank) and floor is not None:
        # a column of zeros holds no direction of its own
        there = matrix.vectors.square().sum(0) > 0.5
        rest = floor.expand(matrix.dim - int(there.sum()))
        return torch.cat([floor * matrix.values[there], rest])
    return torch.linalg.eigvalsh(symmetric(matrix.dense())).clamp(min=0)


def trace(matrix: PositiveDefinite) -> float:
    """Sum of the eigenvalues.

    Args:
        matrix: of any form.

    Returns:
        The trace.

    Example:
        >>> trace(Diagonal(torch.tensor([2.0, 1.0])))
        5.0
    """
    return float(_trace(double(matrix)))


def _trace(matrix: PositiveDefinite) -> Tensor:
    if isinstance(matrix, Block):
        return torch.stack([_trace(part) for part in matrix.parts.values()]).sum()
    if isinstance(matrix, Kronecker):
        return torch.stack([_trace(factor) for factor in matrix.factors]).prod()
    if isinstance(matrix, LowRank):
        square = matrix.scale.square()
        along = square @ matrix.vectors.square()
        return square.sum() + ((matrix.values - 1) * along).sum()
    if isinstance(matrix, Diagonal | Spectral):
        return _eigenvalues(matrix).sum()
    return matrix.dense().trace()


def effective_rank(matrix: PositiveDefinite) -> float:
    r"""Number of directions that hold the trace, :math:`\exp H(\lambda/\sum\lambda)`.

    Args:
        matrix: of any form, not zero.

    Returns:
        From 1 to `dim`.

    References:
        Roy and Vetterli (2007), The effective rank: a measure of effective
        dimensionality.

    Example:
        >>> round(effective_rank(Diagonal(torch.ones(3))), 6)
        3.0
    """
    values = eigenvalues(matrix)
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def floored(matrix: PositiveDefinite, rel: float = 1e-3) -> PositiveDefinite:
    r"""Raise a matrix that may be singular, :math:`A + r (\operatorname{tr} A / d) I`.

    A distance between near-null directions is noise; above a floor it is not. Blocks
    are raised one by one. A product plus a constant is no product any more: each of its
    `k` factors is raised by :math:`r^{1/k}`, so that the least eigenvalues of the
    product stand at the same share of its mean. A matrix of zeros becomes the identity.

    Args:
        matrix: of any form.
        rel: the floor, as a share of the mean eigenvalue.

    Returns:
        A matrix of the same form in double precision; a low rank whose scales differ is
        written out.

    Example:
        >>> floored(Diagonal(torch.tensor([4.0, 0.0])), 0.125).scale.square().sum()
        tensor(18., dtype=torch.float64)
    """
    check_number("rel", rel)
    return _floored(double(matrix), rel)


def _floored(matrix: PositiveDefinite, rel: float) -> PositiveDefinite:
    if isinstance(matrix, Block):
        return Block({name: _floored(p, rel) for name, p in matrix.parts.items()})
    if isinstance(matrix, Kronecker):
        own = rel ** (1 / len(matrix.factors))
        return Kronecker(tuple(_floored(factor, own) for factor in matrix.factors))
    size = _trace(matrix) / matrix.dim
    more = torch.where(size > 0, rel * size, 1.0)
    if isinstance(matrix, Diagonal):
        return Diagonal((matrix.scale.square() + more).sqrt())
    if isinstance(matrix, Spectral):
        return Spectral(matrix.values + more, matrix.vectors)
    floor = floor_of(matrix)
    if isinstance(matrix, LowRank) and floor is not None:
        raised = floor + more
        values = (floor * matrix.values + more) / raised
        scale = raised.sqrt().expand(matrix.dim).clone()
        return LowRank(scale, matrix.vectors, values)
    dense = symmetric(matrix.dense())
    return Dense.from_matrix(dense + more * torch.eye(matrix.dim).to(dense))


def leading(matrix: PositiveDefinite, k: int) -> Leading:
    r"""Find the directions of the `k` largest eigenvalues.

    They are determined only where the next eigenvalue is clearly smaller: a change of
    the matrix turns them by at most its size over the gap (Davis and Kahan).

    Args:
        matrix: of any form.
        k: number of directions, below `dim`.

    Returns:
        Directions, eigenvalues and gap.

    Warns:
        EigengapWarning: the gap is below 0.05, so that angles mean nothing.

    Example:
        >>> leading(Diagonal(torch.tensor([2.0, 1.0])), 1).gap
        0.75
    """
    check(0 < k < matrix.dim, "k", k, f"from 1 to {matrix.dim - 1}")
    values, vectors = _top(double(matrix), k + 1)
    top, rest = values[k - 1], values[k]
    gap = float((top - rest) / top) if float(top) > 0 else 0.0
    if gap < _GAP:
        warnings.warn(
            EigengapWarning(
                "leading directions are not determined",
                found=f"a gap of {gap:.2g} after {k} eigenvalues",
                expected=f"at least {_GAP}",
                todo="Take another number of directions, or compare no angles.",
            ),
            stacklevel=2,
        )
    return Leading(vectors[:, :k], values[:k], gap)


def _top(matrix: PositiveDefinite, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest eigenvalues and their vectors; fewer where there are fewer."""
    k = min(k, matrix.dim)
    if isinstance(matrix, Diagonal):
        values, rows = matrix.scale.square().topk(k)
        vectors = values.new_zeros(matrix.dim, k)
        vectors[rows, torch.arange(k)] = 1.0
        return values, vectors
    if isinstance(matrix, Block):
        return _top_of_blocks(matrix, k)
    if isinstance(matrix, Kronecker):
        values, vectors = _top(matrix.factors[0], k)
        for factor in matrix.factors[1:]:
            more, right = _top(factor, k)
            both = torch.outer(values, more)
            values, order = both.flatten().topk(min(k, both.numel()))
            i, j = order // len(more), order % len(more)
            vectors = (vectors[:, None, i] * right[None, :, j]).flatten(0, 1)
        return values, vectors
    floor = floor_of(matrix)
    if isinstance(matrix, LowRank) and floor is not None and k <= len(matrix.values):
        values, order = (floor * matrix.values).topk(k)
        if bool(values[-1] >= floor):
            return values, matrix.vectors[:, order]
    if isinstance(matrix, LowRank) and floor is not None:
        # directions at the floor fill up what the low rank leaves open
        return _filled(matrix, floor, k)
    values, vectors = torch.linalg.eigh(symmetric(matrix.dense()))
    return values.flip(0)[:k], vectors.flip(1)[:, :k]


def _filled(matrix: LowRank, floor: Tensor, k: int) -> tuple[Tensor, Tensor]:
    above = matrix.values > 1
    values, order = (floor * matrix.values[above]).sort(descending=True)
    vectors = matrix.vectors[:, above][:, order]
    known = torch.cat([vectors, matrix.vectors[:, ~above]], 1)
    eye = torch.eye(matrix.dim, k + known.shape[1]).to(vectors)
    rest = torch.linalg.qr(torch.cat([known, eye], 1))[0][:, known.shape[1] :]
    values = torch.cat([values, floor.expand(k)])[:k]
    return values, torch.cat([vectors, rest], 1)[:, :k]


def _top_of_blocks(matrix: Block, k: int) -> tuple[Tensor, Tensor]:
    found = [_top(part, k) for part in matrix.parts.values()]
    values, order = torch.cat([values for values, _ in found]).topk(k)
    vectors = torch.block_diag(*(vectors for _, vectors in found))[:, order]
    return values, vectors


def principal_angles(one: Tensor, two: Tensor) -> Tensor:
    r"""Principal angles between the spans of two sets of columns.

    Angles above 45 degrees come from their cosines, the singular values of
    :math:`U^\top V`; smaller ones from their sines, those of :math:`V - U U^\top V`:
    a cosine knows no angle below :math:`10^{-8}`.

    Args:
        one: columns, `(dim, k)`; they need not be orthonormal.
        two: columns, `(dim, m)`.

    Returns:
        Rising, in radians, `(min(k, m),)`. The Grassmann distance is their norm, the
        chordal one the norm of their sines.

    References:
        Björck and Golub (1973), Numerical methods for computing angles between linear
        subspaces.

    Example:
        >>> tilted = torch.tensor([[1.0], [1e-10]], dtype=torch.float64)
        >>> principal_angles(torch.tensor([[1.0], [0.0]]), tilted).tolist()
        [1e-10]
    """
    good = one.ndim == two.ndim == 2 and one.shape[0] == two.shape[0]
    check_shape("two", two.shape, f"({one.shape[0]}, m)", good=good)
    u, v = (torch.linalg.qr(x.detach().double())[0] for x in (one, two))
    if u.shape[1] < v.shape[1]:
        u, v = v, u
    along = u.mT @ v
    cosines = torch.linalg.svdvals(along).clamp(max=1.0)
    sines = torch.linalg.svdvals(v - u @ along).flip(0).clamp(max=1.0)
    return torch.where(cosines.square() > 0.5, sines.arcsin(), cosines.arccos())
