"""Solves with curvatures, and how much of a curvature the forgotten data bring."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from pyro_geo.errors import (
    ConvergenceWarning,
    LeverageError,
    NotPositiveDefiniteError,
    UnsupportedError,
)
from pyro_geo.geometry.laplace import MAX_DENSE_DIM
from pyro_geo.geometry.matrices import Cholesky
from pyro_geo.geometry.whitening import whitened
from pyro_geo.optim.conjugate_gradients import conjugate_gradients
from pyro_geo.unlearning._objective import Matrix

__all__ = [
    "Product",
    "factor_of",
    "leverage_by_products",
    "leverage_of",
    "refuse_leverage",
    "solver",
    "woodbury",
]

Product = Callable[[Tensor], Tensor]

_TOL = 1e-12  # share of a right-hand side that conjugate gradients leave
_RANK = 512  # of forgotten data, where no matrix is formed
_BLOCK = 32  # probes of a range at once
_ROUNDING = 1e-12  # of the largest eigenvalue
_KRYLOV = 24  # products that find a leverage without matrices


def solver(matrix: Matrix, dim: int, what: str) -> tuple[Product, Tensor | None]:
    """Make the solve with a curvature: by Cholesky, or by products where it is large.

    Args:
        matrix: the curvature.
        dim: its rows.
        what: name of the matrix for a message.

    Returns:
        The map of rows `(count, dim)` to solutions, and the matrix where it was
        formed. One that is not positive definite raises
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`, at once or at the first
        solve.
    """
    if dim <= MAX_DENSE_DIM:
        dense = matrix.dense()
        root, info = torch.linalg.cholesky_ex(dense)
        # a pivot is the share of its diagonal that the directions before it leave
        pivots = root.diagonal().square() / dense.diagonal()
        rounding = 4 * len(dense) * torch.finfo(dense.dtype).eps
        if int(info) or not bool((pivots > rounding).all()):
            _not_positive(what)
        return Cholesky(root).solve, dense

    def solve(b: Tensor) -> Tensor:
        solution = conjugate_gradients(matrix.matvec, b, tolerance=_TOL, max_steps=2000)
        if not bool(solution.positive.all()):
            _not_positive(what)
        if not float(solution.residual.max()) <= 1e-4:
            _unsolved(what, float(solution.residual.max()))
        return solution.x

    return solve, None


def leverage_of(forgotten: Tensor, whole: Tensor) -> float:
    r"""Find the largest share of a curvature that the forgotten data bring.

    .. math:: h = \lambda_{\max}(H_D^{-1/2} H_F H_D^{-1/2})

    Args:
        forgotten: curvature of the forgotten data, `(dim, dim)`.
        whole: of all data, positive definite, `(dim, dim)`.

    Returns:
        The leverage.
    """
    shares = whitened(forgotten, torch.linalg.cholesky(whole))
    return float(torch.linalg.eigvalsh(shares)[-1])


def leverage_by_products(forgotten: Matrix, whole: Product, solve: Product) -> float:
    """Find the leverage of :func:`leverage_of` where no matrix is formed.

    Rayleigh-Ritz on the Krylov space of the solve after the product, which is Lanczos'
    method in the inner product of the whole curvature. The result is never too large.

    Args:
        forgotten: curvature of the forgotten data.
        whole: product with the curvature of all data.
        solve: with it.

    Returns:
        The leverage.
    """
    like = forgotten.likelihood.q
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, len(like), generator=generator, dtype=torch.float64)
    v = solve(forgotten.matvec(start.to(like)))
    space = like.new_zeros(0, len(like))
    for _ in range(min(len(like), _KRYLOV)):
        size = v.norm()
        for _ in range(2):  # once more against rounding
            v = v - (v @ space.T) @ space
        if float(v.norm()) <= 1e-10 * float(size):
            break
        space = torch.cat([space, v / v.norm()])
        v = solve(forgotten.matvec(space[-1:]))
    if not len(space):
        return 0.0
    small, large = space @ forgotten.matvec(space).T, space @ whole(space).T
    return leverage_of((small + small.T) / 2, (large + large.T) / 2)


def factor_of(forgotten: Matrix | Tensor) -> Tensor:
    r"""Write the curvature of forgotten data as :math:`A^\top A`.

    Without a matrix, the range is found by random probes until further ones bring
    nothing new, which is exact for the low rank that few data have.

    Args:
        forgotten: their curvature.

    Returns:
        The factor `A`, `(rank, dim)`. A rank above 512 without a matrix is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    Raises:
        NotPositiveDefiniteError: the curvature is negative somewhere.

    References:
        Halko, Martinsson and Tropp (2011), Finding structure with randomness,
        algorithm 4.2.
    """
    if isinstance(forgotten, Tensor):
        values, vectors = torch.linalg.eigh(forgotten)
    else:
        space = _range_of(forgotten)
        inside = space @ forgotten.matvec(space).T
        values, turned = torch.linalg.eigh((inside + inside.T) / 2)
        vectors = space.T @ turned
    least = _ROUNDING * values.abs().max()
    if float(values.min()) < -1e3 * least:
        raise NotPositiveDefiniteError(
            "the curvature of the forgotten data has no square root",
            where="method='woodbury'",
            found=f"smallest eigenvalue {float(values.min()):.3g}",
            expected="a positive semidefinite matrix",
            todo="Pass method='newton', or curvature='gauss_newton'.",
        )
    keep = values > least
    return values[keep].sqrt()[:, None] * vectors[:, keep].T


def woodbury(factor: Tensor, solve: Product) -> tuple[Product, float]:
    r"""Make the solve with what is left of a curvature, without the retained data.

    .. math:: H_R^{-1} = H^{-1} + H^{-1} A^\top (I - A H^{-1} A^\top)^{-1} A H^{-1}

    Args:
        factor: `A` with :math:`A^\top A` the forgotten curvature, `(rank, dim)`.
        solve: with the curvature of all data.

    Returns:
        The solve, and the leverage: the largest eigenvalue of the matrix inside.
    """
    if not len(factor):
        return solve, 0.0
    spread = solve(factor)  # rows of A H^-1
    inner = factor @ spread.T
    inner = (inner + inner.T) / 2
    leverage = float(torch.linalg.eigvalsh(inner)[-1])
    if leverage >= 1:
        refuse_leverage(leverage)
    left = torch.eye(len(inner)).to(inner) - inner
    root, info = torch.linalg.cholesky_ex(left)
    if int(info):
        refuse_leverage(leverage)

    def solved(b: Tensor) -> Tensor:
        return solve(b) + Cholesky(root).solve(b @ spread.T) @ spread

    return solved, leverage


def refuse_leverage(leverage: float) -> NoReturn:
    """Refuse to remove more information than there is.

    Args:
        leverage: of the forgotten data.

    Raises:
        LeverageError: always.
    """
    raise LeverageError(
        "the forgotten data hold all the information in some direction, or more",
        where="argument forget",
        found=f"leverage {leverage:.6g}",
        expected="a leverage below 1",
        todo="Check that these data were fitted; if so add a prior or damping, or fit "
        "the retained data anew.",
    )


def _range_of(matrix: Matrix) -> Tensor:
    """Find an orthonormal basis of the range, `(rank, dim)`."""
    like = matrix.likelihood.q
    generator = torch.Generator().manual_seed(0)
    space, scale = like.new_zeros(0, len(like)), 0.0
    while len(space) <= _RANK:
        probes = torch.randn(_BLOCK, len(like), generator=generator, dtype=like.dtype)
        image = matrix.matvec(probes.to(like))
        scale = max(scale, float(image.norm(dim=1).max()))
        for _ in range(2):
            image = image - (image @ space.T) @ space
        _, sizes, rows = torch.linalg.svd(image, full_matrices=False)
        new = rows[sizes > _ROUNDING * scale]
        if not len(new):
            return space
        space = torch.linalg.qr(torch.cat([space, new]).T).Q.T
    raise UnsupportedError(
        "the forgotten data have too high a rank for a factor",
        where="method='woodbury'",
        found=f"more than {_RANK} directions",
        expected="fewer data, or a model of fewer parameters",
        todo="Pass method='newton'.",
    )


def _not_positive(what: str) -> NoReturn:
    raise NotPositiveDefiniteError(
        f"the curvature of {what} is not positive definite",
        where="the parameters given",
        found="a direction without positive curvature",
        expected="a minimum with curvature in every direction",
        todo="Pass damping= a positive number, add a prior, or train to a minimum.",
    )


def _unsolved(what: str, residual: float) -> None:
    warnings.warn(
        ConvergenceWarning(
            f"a system with the curvature of {what} was not solved",
            where="conjugate gradients",
            found=f"relative residual {residual:.3g}",
            expected="at most 1e-4",
            todo="Pass damping= a larger number.",
        ),
        stacklevel=4,
    )
