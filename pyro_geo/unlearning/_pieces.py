"""What treatments do to one symmetric matrix without its floor.

A piece is the part of a memory that data have made: eigenvalues and vectors, or a
diagonal alone. Nothing here knows of optimisers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Piece",
    "Which",
    "directions",
    "gather",
    "perturb",
    "project",
    "shrink",
    "subtract",
    "truncate",
]

Which = Literal["all", "top", "tail"]
"""Which eigenvalues: every one, a share of the largest, or all but those."""


class Piece(NamedTuple):
    """A matrix that is positive semidefinite.

    Attributes:
        values: eigenvalues, falling, `(k,)`; or a diagonal in any order.
        vectors: orthonormal columns, `(n, k)`; None for a diagonal.
    """

    values: Tensor
    vectors: Tensor | None

    def dense(self) -> Tensor:
        """The matrix written out, `(n, n)`."""
        if self.vectors is None:
            return self.values.diag()
        return (self.vectors * self.values) @ self.vectors.mT


def shrink(piece: Piece, rho: float, which: Which, fraction: float) -> Piece:
    """Multiply eigenvalues with `1 - rho`."""
    order = piece.values.argsort(descending=True)
    cut = math.ceil(fraction * len(order))
    chosen = {"all": order, "top": order[:cut], "tail": order[cut:]}[which]
    values = piece.values.clone()
    values[chosen] *= 1 - rho
    return piece._replace(values=values)


def truncate(piece: Piece, k: int) -> Piece:
    """Set all but the `k` largest eigenvalues to zero."""
    rest = piece.values.argsort(descending=True)[k:]
    values = piece.values.clone()
    values[rest] = 0.0
    return piece._replace(values=values)


def perturb(piece: Piece, sigma: float, generator: torch.Generator) -> Piece:
    """Multiply with the exponential of symmetric noise, between two roots."""
    k = len(piece.values)
    shape = (k,) if piece.vectors is None else (k, k)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    noise = noise.to(piece.values)
    if piece.vectors is None:
        return Piece(piece.values * (sigma * noise).exp(), None)
    # off the diagonal the mean of two has half the variance: the usual ensemble
    middle = torch.linalg.matrix_exp(sigma * 0.5 * (noise + noise.mT))
    root = piece.values.clamp(min=0).sqrt()
    return _turned(root[:, None] * middle * root, piece.vectors)


def project(piece: Piece, span: Tensor) -> Piece:
    """Take orthonormal columns out of the space that a matrix acts on, `P S P`."""
    if piece.vectors is None:
        v = piece.values
        inside = span.mT @ (v[:, None] * span)  # only the diagonal can be kept
        both = ((span @ inside) * span).sum(1)
        own = span.square().sum(1)
        return Piece((v - 2 * v * own + both).clamp(min=0), None)
    left = piece.vectors - span @ (span.mT @ piece.vectors)
    q, r = torch.linalg.qr(left)
    return _turned((r * piece.values) @ r.mT, q)


def gather(columns: Tensor, like: Piece) -> Piece:
    """Sum of outer products of columns, in the form of another piece."""
    if like.vectors is None:
        return Piece(columns.square().sum(1), None)
    return Piece(*_outer(columns.to(like.vectors)))


def subtract(piece: Piece, columns: Tensor) -> tuple[Piece, float, float]:
    """Take outer products out of a piece, and clip at zero.

    Args:
        piece: left as it is.
        columns: `(n, m)`.

    Returns:
        The rest, what was clipped, and the size of what went in.
    """
    size = float(piece.values.sum() + columns.square().sum())
    if piece.vectors is None:
        rest = piece.values - columns.square().sum(1)
        return Piece(rest.clamp(min=0), None), float(-rest.clamp(max=0).sum()), size
    dense = piece.dense() - columns @ columns.mT
    values, vectors = torch.linalg.eigh(0.5 * (dense + dense.mT))
    clipped = float(-values.clamp(max=0).sum())
    return Piece(values.flip(0).clamp(min=0), vectors.flip(1)), clipped, size


def directions(columns: Tensor, rank: int | None = None) -> Tensor:
    """Orthonormal columns of the span, or its leading ones; `(n, at most rank)`."""
    values, vectors = _outer(columns)
    most = float(values.amax()) if len(values) else 0.0
    kept = int((values > 1e-14 * most).sum()) if most > 0 else 0
    return vectors[:, : kept if rank is None else min(kept, rank)]


def _outer(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of the sum of outer products, falling."""
    q, r = torch.linalg.qr(columns)
    values, turn = torch.linalg.eigh(r @ r.mT)
    return values.flip(0).clamp(min=0), q @ turn.flip(1)


def _turned(inner: Tensor, vectors: Tensor) -> Piece:
    values, turn = torch.linalg.eigh(0.5 * (inner + inner.mT))
    return Piece(values.flip(0).clamp(min=0), vectors @ turn.flip(1))
