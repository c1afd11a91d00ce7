"""Two positive-definite matrices brought to a form that they share.

A pair is one of four kinds: two diagonals; two small dense matrices, beside a number of
directions in which both are a constant; a product of pairs; a sum of pairs. Spectral
functions of `A^-1 B` follow from the kind without the full matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import NotPositiveDefiniteError, UnsupportedError
from pyro_geo.geometry.kronecker import Block, Kronecker
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank, PositiveDefinite

__all__ = [
    "Diagonals",
    "Pair",
    "Product",
    "Small",
    "Sum",
    "double",
    "floor_of",
    "refuse",
    "pair_of",
    "symmetric",
]

_DENSE = 4096  # rows up to which matrices of unlike forms are written out


class Diagonals(NamedTuple):
    """Two diagonal matrices, `(n,)` each."""

    a: Tensor
    b: Tensor


class Small(NamedTuple):
    """Two dense matrices, and `copies` directions where they are `floors`."""

    a: Tensor
    b: Tensor
    floors: tuple[Tensor, Tensor]
    copies: int


class Product(NamedTuple):
    """Pairs of factors of two Kronecker products."""

    pairs: tuple[Any, ...]


class Sum(NamedTuple):
    """Pairs of blocks on two diagonals."""

    pairs: tuple[Any, ...]


Pair = Diagonals | Small | Product | Sum


def double(matrix: Any) -> Any:
    """Copy a matrix to double precision; of any form, and all that it holds."""
    if isinstance(matrix, Tensor):
        return matrix.detach().double() if matrix.is_floating_point() else matrix
    if isinstance(matrix, dict):
        return {name: double(part) for name, part in matrix.items()}
    if isinstance(matrix, tuple):
        parts = [double(part) for part in matrix]
        return type(matrix)(*parts) if hasattr(matrix, "_fields") else tuple(parts)
    return matrix


def symmetric(matrix: Tensor) -> Tensor:
    """Take the symmetric half of a matrix that rounding has bent."""
    return 0.5 * (matrix + matrix.mT)


def floor_of(matrix: PositiveDefinite) -> Tensor | None:
    """Find the constant that a matrix is in all but a few directions; None if none."""
    if isinstance(matrix, LowRank | Diagonal):
        scale = matrix.scale
        if bool((scale == scale[0]).all()):
            return scale[0].square()
    return None


def refuse(found: object) -> NoReturn:
    """Say that no distance is defined for a matrix that is singular or worse."""
    raise NotPositiveDefiniteError(
        "a matrix is not positive definite",
        found=found,
        expected="eigenvalues above zero",
        todo="Raise both by floored(matrix) first: memories of optimisers have "
        "directions that nothing was added in.",
    )


def pair_of(a: PositiveDefinite, b: PositiveDefinite, *, congruent: bool) -> Pair:
    """Bring two matrices to a shared form, in double precision.

    Args:
        a: of any form.
        b: of any form and the same number of rows.
        congruent: whether `S A S` and `S B S` may stand for `A` and `B`, which they do
            for functions of the eigenvalues of `A^-1 B`.

    Returns:
        The pair. Matrices that are not positive definite are a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.

    Raises:
        UnsupportedError: forms differ and the matrices are too large to write out.
    """
    check_shape("b", (b.dim,), (a.dim,))
    if isinstance(a, Block) and isinstance(b, Block):
        sizes = [{k: p.dim for k, p in m.parts.items()} for m in (a, b)]
        check_shape("b", (), f"the blocks {sizes[0]}", good=sizes[0] == sizes[1])
        parts = [(a.parts[name], b.parts[name]) for name in a.parts]
        return Sum(tuple(pair_of(*two, congruent=congruent) for two in parts))
    if isinstance(a, Kronecker) and isinstance(b, Kronecker):
        two = [[f.dim for f in m.factors] for m in (a, b)]
        if two[0] == two[1]:
            factors = zip(a.factors, b.factors, strict=True)
            return Product(tuple(pair_of(*f, congruent=congruent) for f in factors))
    a, b = double(a), double(b)
    if isinstance(a, Diagonal) and isinstance(b, Diagonal):
        values = a.scale.square(), b.scale.square()
        if not all(bool((v > 0).all()) for v in values):
            refuse("zeros on the diagonal")
        return Diagonals(*values)
    if congruent and isinstance(a, LowRank) and isinstance(b, LowRank):
        ratio = b.scale / a.scale
        ones = torch.ones_like(a.scale)
        a, b = a._replace(scale=ones), b._replace(scale=ratio)
    floors = floor_of(a), floor_of(b)
    if floors[0] is not None and floors[1] is not None:
        return _compressed(a, b, (floors[0], floors[1]))
    if a.dim > _DENSE and not (isinstance(a, Dense) or isinstance(b, Dense)):
        raise UnsupportedError(
            "two large matrices of unlike forms",
            found=f"{type(a).__name__} and {type(b).__name__} of {a.dim} rows",
            expected=f"the same form, or at most {_DENSE} rows",
            todo="Bring both to one form, such as a low rank above one floor.",
        )
    zero = a.dense().new_zeros(())
    return Small(symmetric(a.dense()), symmetric(b.dense()), (zero, zero), 0)


def _compressed(a: Any, b: Any, floors: tuple[Tensor, Tensor]) -> Small:
    """Write two low ranks in a basis of all their directions."""
    columns = [m.vectors for m in (a, b) if isinstance(m, LowRank)]
    q = a.scale.new_zeros(a.dim, 0)
    if columns:
        # Orthonormal whatever its rank: directions that both share leave columns that
        # point anywhere, in which both matrices are their floors.
        q = torch.linalg.qr(torch.cat(columns, 1))[0]
    small = []
    for matrix, floor in zip((a, b), floors, strict=True):
        inside = floor * torch.eye(q.shape[1]).to(q)
        if isinstance(matrix, LowRank):
            along = q.mT @ matrix.vectors
            inside = inside + floor * (along * (matrix.values - 1)) @ along.mT
        small.append(symmetric(inside))
    if not all(bool(floor > 0) for floor in floors):
        refuse("a floor of zero")
    return Small(small[0], small[1], floors, a.dim - q.shape[1])
