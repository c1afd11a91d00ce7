"""The factor of a scale matrix, however the matrix is given."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import NotPositiveDefiniteError

__all__ = ["scale_tril_of"]


def scale_tril_of(
    scale_tril: Tensor | None,
    covariance_matrix: Tensor | None,
    precision_matrix: Tensor | None,
) -> Tensor:
    """Lower Cholesky factor of a scale matrix that is given in one of three ways.

    Args:
        scale_tril: the factor itself, `(*batch, d, d)`.
        covariance_matrix: the matrix, `(*batch, d, d)`.
        precision_matrix: its inverse, `(*batch, d, d)`.

    Returns:
        The factor. A matrix that is not positive-definite is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
    """
    options = {
        "scale_tril": scale_tril,
        "covariance_matrix": covariance_matrix,
        "precision_matrix": precision_matrix,
    }
    given = {name: matrix for name, matrix in options.items() if matrix is not None}
    names = ", ".join(options)
    check(len(given) == 1, names, sorted(given) or "none", "exactly one of them")
    name, matrix = next(iter(given.items()))
    square = matrix.dim() >= 2 and matrix.shape[-1] == matrix.shape[-2]
    check_shape(name, matrix.shape, "(*batch, d, d)", square)
    if name == "scale_tril":
        return matrix
    if name == "covariance_matrix":
        return _factor(name, matrix)
    # P = U U' with an upper triangular U, hence P^-1 = L L' with L = U'^-1
    upper = _factor(name, matrix.flip(-2, -1)).flip(-2, -1)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(upper.mT, eye, upper=False)


def _factor(name: str, matrix: Tensor) -> Tensor:
    try:
        return torch.linalg.cholesky(matrix)
    except RuntimeError as reason:  # torch.linalg.LinAlgError, which is private
        raise NotPositiveDefiniteError(
            "a scale matrix has no Cholesky factor",
            where=f"argument {name}",
            found=str(reason).splitlines()[0],
            expected="a positive-definite matrix",
            todo="Add a small multiple of the identity, or check its entries.",
        ) from reason
