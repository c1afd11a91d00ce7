r"""The Laplace approximation: a normal density at a mode, with the curvature there.

.. math:: q \sim N\bigl(\hat q, A^{-1}\bigr), \qquad A = G + P \text{ or } A = H

with `G` the Gauss-Newton matrix, `P` the prior's Hessian and `H` the Hessian of minus
the log-density. Exact where the density is normal. A real model has flat directions,
or some that curve the wrong way; :func:`laplace` says what they get instead, and the
result how many there were.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple, NoReturn

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.density import Target
from pyro_geo.errors import ConvergenceWarning, NotPositiveDefiniteError
from pyro_geo.geometry.curvature import GaussNewton, Hessian, PriorHessian
from pyro_geo.geometry.matrices import Cholesky, Diagonal, Spectral

__all__ = ["MAX_DENSE_DIM", "Laplace", "laplace"]

MAX_DENSE_DIM = 3_000
"""Dimension above which a Gauss-Newton precision is diagonal; dense it takes 72 MB."""

_FLOOR = 1e-10  # share of the largest eigenvalue that is rounding in any precision
_ROUNDING = 4  # machine epsilons of the largest eigenvalue that are rounding

Flat = float | Literal["size", "refuse"]


class Laplace(NamedTuple):
    """A normal density at a mode.

    Attributes:
        mean: the mode, `(dim,)`, or several, `(n, dim)`.
        precision: inverse covariance.
        smallest: smallest eigenvalue before a repair; NaN where nothing was repaired.
        num_repaired: directions whose curvature was replaced.
    """

    mean: Tensor
    precision: Cholesky | Diagonal | Spectral
    smallest: Tensor
    num_repaired: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into draws.

        Args:
            noise: `(draws, dim)`; with several modes one row for each.

        Returns:
            Draws, of the same shape.
        """
        return self.mean + self.precision.sample_inverse(noise)

    def draw(self, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the approximation at one mode.

        Args:
            num_draws: how many.
            generator: randomness; torch's global one when left out.

        Returns:
            Draws, `(num_draws, dim)`.
        """
        shape = (self.mean.shape[-1], num_draws)
        # double precision on the processor: the same draws for every type and device
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).mT
        return self.sample(noise.to(self.mean))

    def log_det(self) -> Tensor:
        """Logarithm of the determinant of the covariance."""
        return -self.precision.logdet()

    def log_evidence(self, target: Target) -> Tensor:
        r"""Approximate the logarithm of the integral of the density.

        .. math:: \log Z \approx \log p(\hat q) + \tfrac{d}{2} \log 2\pi
                  - \tfrac12 \log \det A

        Args:
            target: the density that was approximated.

        Returns:
            One number for each mode; NaN where the density rises in some direction, at
            a saddle say: there is no mode whose volume could be taken.

        Warns:
            ConvergenceWarning: such a point is among them.

        References:
            MacKay (1992), A practical Bayesian framework for backpropagation networks,
            equation 2.5.
        """
        # the density at the mode times the volume of its Gaussian
        rows = torch.atleast_2d(self.mean)
        with torch.no_grad():
            density = target.log_prob(rows).reshape(self.mean.shape[:-1])
        dim = self.mean.shape[-1]
        evidence = density + 0.5 * dim * math.log(2 * math.pi) + 0.5 * self.log_det()
        return torch.where(self._is_mode(), evidence, torch.nan)

    def _is_mode(self) -> Tensor:
        """Say where no eigenvalue was negative beyond rounding, and warn of others."""
        if not bool((self.smallest < 0).any()):
            return torch.ones_like(self.smallest, dtype=torch.bool)
        largest = self.precision.dense().diagonal(dim1=-2, dim2=-1).amax(-1)
        rising = self.smallest < -_share_of_rounding(self.mean.dtype) * largest
        if bool(rising.any()):
            worst = float(self.smallest[rising].min())
            warnings.warn(
                ConvergenceWarning(
                    "a Laplace evidence is of no mode",
                    where=f"{int(rising.sum())} of {rising.numel()} points",
                    found=f"smallest eigenvalue {worst:.3g}",
                    expected="no direction in which the density rises",
                    todo="Climb to a mode first, with polish_minima say.",
                ),
                stacklevel=3,
            )
        return ~rising


def laplace(
    target: Target,
    q: Tensor,
    *,
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
    flat: Flat = "size",
    floor: float | None = None,
    generator: torch.Generator | None = None,
) -> Laplace:
    r"""Approximate a density around a mode by a normal one.

    `"gauss_newton"` takes the Gauss-Newton matrix plus the prior's Hessian. The
    likelihood's part is never negative there, so that it serves away from an exact
    minimum; a hierarchical prior can still curve the wrong way. `"hessian"` takes the
    Hessian as it is, which any target has.

    Directions whose eigenvalue is at most `floor` are repaired as `flat` says, and
    counted in the result.

    Args:
        target: the density; for `"gauss_newton"` made from a Pyro model or a module.
        q: the mode, `(dim,)`; for `"hessian"` also several, `(n, dim)`.
        curvature: which matrix is the precision.
        flat: precision of a direction at or below the floor: a positive number;
            `"size"` for the size of its eigenvalue, whatever the sign; or `"refuse"`.
        floor: eigenvalue up to which a direction counts as flat or falling; rounding
            of the largest one if None (for a number), and 0 up to rounding for
            `"size"` and `"refuse"`.
        generator: randomness of the diagonal that replaces a Gauss-Newton
            precision above 3,000 dimensions.

    Returns:
        The approximation. A direction without any precision, under `"size"`, or with
        a negative one, under `"refuse"`, is a
        :class:`~pyro_geo.errors.NotPositiveDefiniteError`.

    References:
        MacKay (1992), A practical Bayesian framework for backpropagation networks;
        Ritter, Botev and Barber (2018), A scalable Laplace approximation for neural
        networks.

    Example:
        >>> target = Target.from_potential(lambda q: 2 * q[0] ** 2, 2)
        >>> normal = laplace(target, torch.zeros(2), curvature="hessian", flat=1.0)
        >>> normal.sample(torch.ones(1, 2)).abs().tolist(), int(normal.num_repaired)
        ([[0.5, 1.0]], 1)
    """
    check_choice("curvature", curvature, ("gauss_newton", "hessian"))
    if isinstance(flat, str):
        check_choice("flat", flat, ("size", "refuse"))
        check(floor is None, "floor", floor, f"None with flat={flat!r}")
    else:
        check(
            0 < flat < math.inf, "flat", flat, "a positive number, 'size' or 'refuse'"
        )
    if curvature == "hessian":
        matrix = Hessian(target, q).dense()
        finite = matrix.isfinite().all(-1).all(-1)
        # where derivatives are not finite, every direction counts as flat
        matrix = torch.where(finite[..., None, None], matrix, 0.0)
        return _by_eigenvalues(q.detach(), matrix, flat, floor)
    if target.dim > MAX_DENSE_DIM:  # the matrix would need gigabytes
        return _by_diagonal(target, q, flat, floor, generator)
    matrix = GaussNewton(target, q).dense().double()
    matrix = matrix + PriorHessian(target, q).dense().double()
    return _by_cholesky(q.detach(), matrix, flat, floor)


def _by_eigenvalues(
    q: Tensor, matrix: Tensor, flat: Flat, floor: float | None
) -> Laplace:
    values, vectors = torch.linalg.eigh(matrix)
    values, smallest, count = _repair(values, flat, floor, q.dtype)
    return Laplace(q, Spectral(values, vectors), smallest, count)


def _by_cholesky(q: Tensor, matrix: Tensor, flat: Flat, floor: float | None) -> Laplace:
    """Factor a precision, and repair it where it is not positive definite."""
    root, info = torch.linalg.cholesky_ex(matrix)
    # a pivot relative to its diagonal is the share of the precision that the directions
    # before it leave; one of rounding's size is noise, whatever its sign
    pivots = root.diagonal().square() / matrix.diagonal()
    least = _ROUNDING * torch.finfo(q.dtype).eps
    if floor is None and int(info) == 0 and bool((pivots > least).all()):
        return _unrepaired(q, Cholesky(root.to(q.dtype)))
    if not bool(matrix.isfinite().all()):  # eigh would raise an error of its own
        _no_precision(math.nan)
    values, vectors = torch.linalg.eigh(matrix)
    values, smallest, count = _repair(values, flat, floor, q.dtype)
    root = torch.linalg.cholesky((vectors * values) @ vectors.T)
    return Laplace(q, Cholesky(root.to(q.dtype)), smallest.to(q.dtype), count)


def _by_diagonal(
    target: Target,
    q: Tensor,
    flat: Flat,
    floor: float | None,
    generator: torch.Generator | None,
) -> Laplace:
    prior = PriorHessian(target, q).diagonal(generator=generator)
    diagonal = GaussNewton(target, q).diagonal(generator=generator) + prior
    q = q.detach()
    if not isinstance(flat, str):
        diagonal, smallest, count = _repair(diagonal, flat, floor, q.dtype)
        return Laplace(q, Diagonal(diagonal.sqrt()), smallest, count)
    # a negative entry may be the error of the estimate, so its size means nothing
    if not bool((diagonal > 0).all()):
        _no_precision(float(diagonal.min()))
    return _unrepaired(q, Diagonal(diagonal.sqrt()))


def _repair(
    values: Tensor, flat: Flat, floor: float | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace eigenvalues at or below the floor.

    Returns:
        The eigenvalues, the smallest one where any was replaced, and how many were.
    """
    rounding = _share_of_rounding(dtype) * values.abs().amax(-1, keepdim=True)
    if isinstance(flat, str):
        # an eigenvalue below rounding has no correct digit, not even in its size
        usable = values if flat == "refuse" else values.abs()
        if bool((usable <= rounding).any()):
            _no_precision(float(values.amin()))
        bad, repaired = values <= 0, values.abs()
    else:
        bad = values <= (rounding if floor is None else floor)
        repaired = torch.where(bad, flat, values)
    count = bad.sum(-1)
    smallest = torch.where(count > 0, values.amin(-1), torch.nan)
    return repaired, smallest, count


def _share_of_rounding(dtype: torch.dtype) -> float:
    """Share of the largest eigenvalue below which another is rounding."""
    return max(_FLOOR, _ROUNDING * torch.finfo(dtype).eps)


def _unrepaired(q: Tensor, precision: Cholesky | Diagonal) -> Laplace:
    none = torch.zeros((), dtype=torch.long, device=q.device)
    return Laplace(q, precision, q.new_tensor(torch.nan), none)


def _no_precision(smallest: float) -> NoReturn:
    raise NotPositiveDefiniteError(
        "a Laplace approximation needs a precision in every direction",
        where="the mode",
        found=f"smallest eigenvalue {smallest:.3g}",
        expected="a positive curvature, as a proper prior on all parameters gives",
        todo="Add a prior, reparametrise, or pass flat= a precision for such "
        "directions (DIMS does without under velocity='isotropic').",
    )
