"""Precisions in the forms of the positive-definite matrices: made, and reordered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.geometry.matrices import Cholesky, Diagonal, LowRank, PositiveDefinite

__all__ = [
    "as_precision",
    "block_diagonal",
    "covariance_of",
    "factored",
    "from_covariance",
    "kl_divergence",
    "reordered",
    "variances_of",
]


_ADVICE = "Check the fits; a product takes on_indefinite='clip', draws shrinkage."


def factored(
    matrix: Tensor, what: str = "a precision", *, todo: str = _ADVICE
) -> Cholesky:
    """Factor a precision.

    Args:
        matrix: symmetric, `(dim, dim)`.
        what: it is, for the message.
        todo: what to do where it cannot be, for the message.

    Returns:
        Its root.

    Raises:
        NotPositiveDefiniteError: it is not positive definite.
    """
    root, info = torch.linalg.cholesky_ex(matrix)
    if int(info) == 0 and bool(root.isfinite().all()):
        return Cholesky(root)
    finite = bool(matrix.isfinite().all())
    least = float(torch.linalg.eigvalsh(matrix)[0]) if finite else float("nan")
    raise NotPositiveDefiniteError(
        f"{what} is not positive definite",
        found=f"smallest eigenvalue {least:.3g}",
        expected="all eigenvalues above zero",
        todo=todo,
    )


def from_covariance(covariance: Tensor) -> Cholesky:
    r"""Factor the inverse of a covariance without forming it.

    With the exchange matrix `J` and :math:`J \Sigma J = M M^\top`,
    :math:`\Sigma^{-1} = R R^\top` for :math:`R = J M^{-\top} J`, lower triangular.

    Args:
        covariance: symmetric, `(dim, dim)`.

    Returns:
        The precision. A covariance that is not positive definite is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
    """
    flipped = factored(covariance.flip(0, 1), "a covariance").root
    eye = torch.eye(len(covariance), dtype=flipped.dtype, device=flipped.device)
    inverse = torch.linalg.solve_triangular(flipped, eye, upper=False)
    return Cholesky(inverse.mT.flip(0, 1).contiguous())


def as_precision(metric: Any, dim: int) -> PositiveDefinite:
    """Take a metric as a precision.

    Args:
        metric: a positive-definite matrix, a dense tensor `(dim, dim)`, or the entries
            of a diagonal, `(dim,)`.
        dim: number of coordinates.

    Returns:
        The matrix, in double precision.

    Raises:
        NotPositiveDefiniteError: an entry of a diagonal is not positive.
    """
    if not isinstance(metric, Tensor):
        kind = type(metric).__name__
        expected = "a matrix of pyro_geo.geometry.matrices, or a tensor"
        check(hasattr(metric, "sample_inverse"), "metric", kind, expected)
        check_shape("metric", (metric.dim,), (dim,))
        return _doubled(metric)
    metric = metric.detach().double()
    good = metric.shape in ((dim,), (dim, dim))
    check_shape("metric", metric.shape, f"({dim},) or ({dim}, {dim})", good)
    if metric.dim() == 2:
        return factored(0.5 * (metric + metric.T))
    if not bool((metric > 0).all()):
        raise NotPositiveDefiniteError(
            "a metric is not positive",
            where="argument metric",
            found=f"smallest entry {float(metric.min()):.3g}",
            expected="entries above zero",
            todo="Add the precision of the prior.",
        )
    return Diagonal(metric.sqrt())


def _doubled(matrix: Any) -> PositiveDefinite:
    """Copy a matrix, a named tuple of tensors, to double precision."""
    parts = (
        part.detach().double() if part.is_floating_point() else part for part in matrix
    )
    return type(matrix)(*parts)


def covariance_of(precision: PositiveDefinite) -> Tensor:
    """Invert a precision, `(dim, dim)`."""
    if isinstance(precision, Cholesky):
        return torch.cholesky_inverse(precision.root)
    covariance = precision.solve(_eye(precision))
    return 0.5 * (covariance + covariance.T)


def variances_of(precision: PositiveDefinite) -> Tensor:
    """Variance of each coordinate, `(dim,)`."""
    if isinstance(precision, Diagonal):
        return precision.scale.square().reciprocal()
    if isinstance(precision, LowRank):
        # S^-1 (I + U (1/D - 1) U') S^-1: no matrix is needed for its diagonal
        along = precision.vectors.square() @ (precision.values.reciprocal() - 1)
        return (1 + along) / precision.scale.square()
    return covariance_of(precision).diagonal()


def kl_divergence(
    loc: Tensor, own: PositiveDefinite, other_loc: Tensor, other: PositiveDefinite
) -> float:
    """Divergence of a normal distribution from another, in nats.

    Args:
        loc: its mean, `(dim,)`.
        own: its precision.
        other_loc: mean of the other one.
        other: precision of the other one.

    Returns:
        The divergence.
    """
    if isinstance(own, Diagonal) and isinstance(other, Diagonal):
        trace = (other.scale / own.scale).square().sum()
    else:
        trace = (other.dense() * covariance_of(own)).sum()
    apart = other.norm(loc - other_loc).square()
    logs = own.logdet() - other.logdet()
    return float(trace + apart - len(loc) + logs) / 2


def _eye(precision: PositiveDefinite) -> Tensor:
    like = precision.logdet()
    return torch.eye(precision.dim, dtype=like.dtype, device=like.device)


def reordered(precision: PositiveDefinite, index: Tensor) -> PositiveDefinite:
    """Put the coordinates of a matrix in another order.

    Args:
        precision: the matrix.
        index: old coordinate of each new one, `(dim,)`.

    Returns:
        The matrix, in the same form where the form allows it.
    """
    if bool((index == torch.arange(len(index), device=index.device)).all()):
        return precision
    if isinstance(precision, Diagonal):
        return Diagonal(precision.scale[index])
    if isinstance(precision, LowRank):
        scale, vectors = precision.scale[index], precision.vectors[index]
        return LowRank(scale, vectors, precision.values)
    return factored(precision.dense()[index][:, index])


def block_diagonal(parts: Sequence[PositiveDefinite]) -> PositiveDefinite:
    """Put independent parts side by side; diagonal where all of them are."""
    if len(parts) == 1:
        return parts[0]
    scales = [part.scale for part in parts if isinstance(part, Diagonal)]
    if len(scales) == len(parts):
        return Diagonal(torch.cat(scales))
    roots = (
        part.root if isinstance(part, Cholesky) else factored(part.dense()).root
        for part in parts
    )
    return Cholesky(torch.block_diag(*roots))
