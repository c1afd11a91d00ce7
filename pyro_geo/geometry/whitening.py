"""Symmetric matrices in the coordinates in which another one is the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.geometry._pairs import symmetric

__all__ = ["whitened"]


def whitened(matrix: Tensor, root: Tensor) -> Tensor:
    r"""Turn a matrix into coordinates in which :math:`L L^\top` is the identity.

    .. math:: L^{-1} K L^{-\top}

    Its eigenvalues are those of `K` relative to :math:`L L^\top`.

    Args:
        matrix: symmetric `K`, `(dim, dim)`.
        root: lower triangular `L`, `(dim, dim)`.

    Returns:
        The matrix, exactly symmetric.

    Example:
        >>> whitened(torch.eye(2), 2 * torch.eye(2)).diagonal().tolist()
        [0.25, 0.25]
    """
    half = torch.linalg.solve_triangular(root, matrix, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return symmetric(whole)
