"""Laws of the velocities with which particles leave an anchor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import (
    ConfigurationError,
    NotPositiveDefiniteError,
    ShapeError,
    explain,
)
from pyro_geo.geometry.curvature import ggn, ggn_diagonal, prior_diagonal, prior_hessian
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

__all__ = [
    "LaplaceFactor",
    "draw_velocities",
    "in_standard_deviations",
    "laplace_factor",
    "posterior_precision",
]

# Above this the dense precision (72 MB per anchor) gives way to its diagonal.
MAX_DENSE_DIM = 3_000
_FLOOR = 1e-10  # share of the largest eigenvalue


class LaplaceFactor(NamedTuple):
    """Square root of a Laplace precision.

    Attributes:
        root: lower Cholesky factor `(dim, dim)`, or square roots of a diagonal
            `(dim,)`.
        smallest: smallest eigenvalue of a precision that had to be repaired, `()`;
            NaN where nothing was.
    """

    root: Tensor
    smallest: Tensor


def posterior_precision(target: Target, q: Tensor) -> Tensor:
    """Gauss-Newton matrix plus the prior's Hessian at `q`, in float64.

    Args:
        target: a target with a known curvature.
        q: one position, `(dim,)`.

    Returns:
        The precision of the Laplace approximation, `(dim, dim)`.
    """
    return ggn(target, q).double() + prior_hessian(target, q).double()


def laplace_factor(
    target: Target, q: Tensor, generator: torch.Generator
) -> LaplaceFactor:
    r"""Factor the Laplace precision at an anchor, without ever inverting it.

    The precision is the Gauss-Newton matrix plus the prior's Hessian: the Hessian of
    the loss is indefinite at noisy-data anchors, and the Gauss-Newton matrix alone is
    singular. Where a hierarchical prior bends the sum below zero, eigenvalues are
    replaced by their size, and the factor says so.

    Args:
        target: a target with a known curvature.
        q: the anchor, `(dim,)`.
        generator: randomness of the diagonal estimate above 3,000 dimensions.

    Returns:
        The factor; above 3,000 dimensions that of the diagonal alone.

    Raises:
        NotPositiveDefiniteError: some direction has no precision at all.
    """
    fine = q.new_tensor(torch.nan)
    if target.dim > MAX_DENSE_DIM:
        diagonal = _precision_diagonal(target, q, generator)
        if not bool((diagonal > 0).all()):
            raise NotPositiveDefiniteError(_no_precision(float(diagonal.min())))
        return LaplaceFactor(diagonal.sqrt(), fine)
    precision = posterior_precision(target, q)
    root, info = torch.linalg.cholesky_ex(precision)
    # a pivot of rounding's size is no precision, of whichever sign it came out
    pivots = root.diagonal().square() / precision.diagonal()
    least = 4 * torch.finfo(q.dtype).eps
    if int(info) == 0 and bool((pivots > least).all()):
        return LaplaceFactor(root.to(q.dtype), fine)
    values, vectors = torch.linalg.eigh(precision.nan_to_num())
    size = values.abs()
    # below this an eigenvalue is rounding, and its size says nothing
    floor = max(_FLOOR, least) * size.max()
    if not precision.isfinite().all() or bool((size <= floor).any()):
        raise NotPositiveDefiniteError(_no_precision(float(size.min())))
    root = torch.linalg.cholesky((vectors * size) @ vectors.T)
    return LaplaceFactor(root.to(q.dtype), values[0].to(q.dtype))


def _precision_diagonal(
    target: Target, q: Tensor, generator: torch.Generator
) -> Tensor:
    prior = prior_diagonal(target, q, generator=generator)
    return ggn_diagonal(target, q, generator=generator) + prior


def _no_precision(smallest: float) -> str:
    return explain(
        "Laplace velocities need a precision in every direction",
        where="the anchor",
        found=f"smallest eigenvalue {smallest:.3g} of Gauss-Newton plus prior",
        expected="a proper prior on all parameters",
        todo="add a prior, or pass velocity='isotropic' or 'fixed_energy'",
    )


def draw_velocities(
    options: DIMSOptions,
    anchors: Tensor,
    slopes: Tensor,
    factors: list[LaplaceFactor],
    draws: int,
    noise: BlockNoise,
) -> Tensor:
    r"""Draw the start velocities of one block.

    `laplace`: `v = chol^{-T} z`, so the covariance is the inverse precision;
    `isotropic`: `v = z`; `fixed_energy`: a uniform direction, scaled so that the
    kinetic energy on the surface is `initial_energy`. All are multiplied by
    `velocity_scale`, save the last.

    Args:
        options: which law, and its numbers.
        anchors: positions, `(chains, dim)`.
        slopes: gradients of the loss there, `(chains, dim)`.
        factors: one per chain for the Laplace law, else empty.
        draws: velocities per chain.
        noise: streams, one per chain.

    Returns:
        Velocities, `(chains, draws, dim)`. A velocity function that returns another
        shape is a :class:`~pyro_geo.errors.ShapeError`, one that returns NaN or
        infinite numbers a :class:`~pyro_geo.errors.ConfigurationError`.
    """
    chains, dim = anchors.shape
    if callable(options.velocity):
        rows = [
            options.velocity(anchors[i], draws, noise.generator(i))
            for i in range(chains)
        ]
        for row in rows:
            _check_custom(row, draws, dim)
        return options.velocity_scale * torch.stack(rows).to(anchors)
    z = noise.normal(draws, dim, dtype=anchors.dtype).to(anchors.device)
    if options.velocity == "isotropic":
        return options.velocity_scale * z
    if options.velocity == "fixed_energy":
        assert options.initial_energy is not None
        along = options.alpha * (z * slopes[:, None]).sum(-1)
        kinetic = 0.5 * (z.square().sum(-1) + along**2)
        return (options.initial_energy / kinetic).sqrt().unsqueeze(-1) * z
    rows = [_solve(factor.root, row) for factor, row in zip(factors, z, strict=True)]
    return options.velocity_scale * torch.stack(rows)


def in_standard_deviations(factor: LaplaceFactor, moves: Tensor) -> Tensor:
    """Length of moves in standard deviations of the Laplace approximation.

    Args:
        factor: of the precision at the anchor.
        moves: differences to the anchor, `(n, dim)`.

    Returns:
        Lengths, `(n,)`.
    """
    root = factor.root
    return (moves * root if root.dim() == 1 else moves @ root).norm(dim=-1)


def _solve(root: Tensor, z: Tensor) -> Tensor:
    if root.dim() == 1:
        return z / root
    return torch.linalg.solve_triangular(root.T, z.T, upper=True).T


def _check_custom(row: Tensor, draws: int, dim: int) -> None:
    if tuple(row.shape) != (draws, dim):
        raise ShapeError(
            "a velocity function returned another shape",
            where="argument 'velocity'",
            found=f"{tuple(row.shape)}",
            expected=f"{(draws, dim)}",
            todo="return one row per draw",
        )
    if not bool(row.isfinite().all()):
        raise ConfigurationError(
            "a velocity function returned numbers that are not finite",
            where="argument 'velocity'",
            found="NaN or infinity",
            expected="finite velocities",
            todo="check the function",
        )
