"""A change of the identity along a few directions."""

from __future__ import annotations

from torch import Tensor

__all__ = ["stretched"]


def stretched(rows: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """Apply `I + U (diag(values) - I) U'` to each row.

    The columns of `U` are orthonormal, so that powers of this matrix are those of its
    values: `(I + U (D - I) U')^p = I + U (D^p - I) U'`.

    Args:
        rows: `(..., dim)`.
        vectors: `U`, `(dim, rank)`.
        values: `(rank,)`.

    Returns:
        Rows of the same shape.
    """
    along = rows @ vectors
    return rows + ((values - 1) * along) @ vectors.mT
