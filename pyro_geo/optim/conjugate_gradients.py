r"""Linear systems with a matrix that is known by its products alone.

Conjugate gradients minimise :math:`\tfrac12 x^\top A x - b^\top x` over Krylov spaces.
The error after `k` products falls at least like
:math:`\bigl((\sqrt\kappa - 1) / (\sqrt\kappa + 1)\bigr)^k`, with
:math:`\kappa` the condition number, and sooner where eigenvalues come in clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check_count, check_number, check_shape
from pyro_geo.ops.lanes import column, dot

__all__ = ["Solution", "conjugate_gradients"]


class Solution(NamedTuple):
    """Solutions of many systems with one matrix.

    Attributes:
        x: solutions, `(count, dim)`.
        residual: length of `b - A x` relative to that of `b`, `(count,)`; NaN where
            `b` is not finite.
        positive: whether no direction of negative curvature was met, `(count,)`.
        num_products: products with the matrix, each of all rows.
    """

    x: Tensor
    residual: Tensor
    positive: Tensor
    num_products: int


@renamed(tol="tolerance", max_iter="max_steps")
def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    diagonal: Tensor | None = None,
    tolerance: float = 1e-10,
    max_steps: int | None = None,
) -> Solution:
    """Solve positive-definite systems, all right-hand sides side by side.

    A system stops where its residual is small enough, or where the matrix turns out
    not to be positive definite; it keeps the solution it has then.

    Args:
        product: maps vectors `(count, dim)` to their products with the matrix.
        b: right-hand sides, `(count, dim)`.
        diagonal: positive diagonal of a matrix close to it, `(dim,)`, by which the
            systems are scaled; none if None.
        tolerance: relative residual at which a system is solved.
        max_steps: products allowed; twice the dimension, at least 50, if None.

    Returns:
        The solutions.

    References:
        Golub and Van Loan (2013), Matrix computations, algorithm 11.5.1.

    Example:
        >>> scale = torch.tensor([1.0, 4.0], dtype=torch.float64)
        >>> b = torch.ones(1, 2, dtype=torch.float64)
        >>> conjugate_gradients(lambda v: scale * v, b).x.tolist()
        [[1.0, 0.25]]
    """
    check_shape("b", b.shape, "(count, dim)", b.dim() == 2)
    check_number("tolerance", tolerance, strict=True)
    check_count("max_steps", max_steps)
    limit = max(2 * b.shape[1], 50) if max_steps is None else max_steps
    inverse = torch.ones_like(b[:1]) if diagonal is None else diagonal.reciprocal()
    x, residual = 0.0 * b, b.clone()  # NaN stays NaN
    size = b.norm(dim=-1)
    scaled = inverse * residual
    direction, energy = scaled, dot(residual, scaled)
    going = (size > 0) & size.isfinite()
    positive = torch.ones_like(going)
    count = 0
    while bool(going.any()) and count < limit:
        image = product(direction)
        count += 1
        curvature = dot(direction, image)
        positive = positive & ~(going & ~(curvature > 0))
        going = going & (curvature > 0)
        length = column(torch.where(going, energy / curvature, 0.0))
        x = x + length * direction
        residual = residual - length * image
        going = going & (residual.norm(dim=-1) > tolerance * size)
        scaled = inverse * residual
        new = dot(residual, scaled)
        turned = scaled + column(new / energy) * direction
        direction = torch.where(column(going), turned, direction)
        energy = torch.where(going, new, energy)
    # a length of NaN is not zero, and its system not solved
    left = torch.where(size == 0, 0.0, residual.norm(dim=-1) / size)
    return Solution(x, left, positive, count)
