r"""Metrics fitted to draws and scores together.

For a normal density with covariance :math:`\Sigma` the scores `g` have covariance
:math:`\Sigma^{-1}`: draws and scores both measure the same matrix. The metric of
least Fisher divergence solves :math:`\Sigma \,\mathrm{cov}(g)\, \Sigma =
\mathrm{cov}(q)`; for a normal density it is exact from any `dim + 1` points, wherever
they lie.

References:
    Seyboldt, Carlson & Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by
    minimizing Fisher divergence, 2603.18845.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.geometry.block_matrices import BlockLowRank
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank
from pyro_geo.infer.mcmc.hmc.metric import Metric, MetricKind

__all__ = ["fit_metric", "fisher_scale", "geometric_mean"]

_RIDGE = 1e-10  # of a covariance in units of its own diagonal
_WIDEST = 1e10  # ratio of a scale to one
_BLOCK_RIDGE = 1e-4  # of a block in units of its own diagonal
_PRIOR_DRAWS = 1e-3  # weight of the identity, in draws per dimension


def fit_metric(
    kind: MetricKind,
    q: Tensor,
    grad: Tensor,
    rank: int,
    members: Tensor | None = None,
) -> Metric | None:
    """Fit a metric to points and their gradients, about their means.

    Args:
        kind: of metric.
        q: points, `(n, dim)`.
        grad: gradients of the log-density or the potential there, `(n, dim)`.
        rank: of a low-rank metric.
        members: coordinates of each block, for a metric of blocks.

    Returns:
        The metric in the points' dtype, or None where they determine none.
    """
    dtype = q.dtype
    q, grad = q.double(), grad.double()
    good = (q.isfinite() & grad.isfinite()).all(-1)
    q, grad = q[good], grad[good]
    if len(q) < 3:
        return None
    q, grad = q - q.mean(0), grad - grad.mean(0)
    # the diagonal solution first: in its units the rest is close to the identity
    scale = fisher_scale(q, grad)
    if kind == "diagonal":
        return _cast(Diagonal(scale), dtype)
    x, y = q / scale, grad * scale
    try:
        if kind == "dense":
            metric = _dense(scale, x, y)
        elif kind == "low_rank":
            metric = LowRank(scale, *_directions(x, y, rank))
        else:
            assert members is not None
            metric = _blocks(scale, x, y, rank, members)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  documented
        return None
    if not all(bool(t.isfinite().all()) for t in metric):  # indices are finite too
        return None
    return _cast(metric, dtype)


def fisher_scale(q: Tensor, grad: Tensor) -> Tensor:
    """Standard deviations `(var q / var g) ** 1/4`, `(dim,)`, of centred rows."""
    var_q, var_g = q.square().mean(0), grad.square().mean(0)
    scale = (var_q / var_g) ** 0.25
    # a coordinate that never changed, or has no slope, keeps scale one
    usable = scale.isfinite() & (scale > 1 / _WIDEST) & (scale < _WIDEST)
    return torch.where(usable, scale, 1.0)


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    r"""Solve :math:`\Sigma B \Sigma = A` for positive-definite matrices.

    Args:
        a: `(*batch, dim, dim)`.
        b: `(*batch, dim, dim)`.

    Returns:
        The geometric mean of `a` and the inverse of `b`.

    Example:
        >>> a, b = torch.diag(torch.tensor([4.0, 9.0])), torch.eye(2)
        >>> geometric_mean(a, b).diagonal().tolist()
        [2.0, 3.0]
    """
    # with B = L L': Sigma = L'^-1 (L' A L)^(1/2) L^-1, as (L' Sigma L)^2 = L' A L
    factor = torch.linalg.cholesky(b)
    values, vectors = torch.linalg.eigh(factor.mT @ a @ factor)
    half = torch.linalg.solve_triangular(factor.mT, vectors, upper=True)
    return (half * values.clamp(min=0).sqrt().unsqueeze(-2)) @ half.mT


def _dense(scale: Tensor, x: Tensor, y: Tensor) -> Dense:
    dim = len(scale)
    cov_x, cov_y = _moments(x), _moments(y)
    covariance = geometric_mean(cov_x, cov_y)
    covariance = 0.5 * (covariance + covariance.mT)
    factor = scale[:, None] * torch.linalg.cholesky(
        covariance + _RIDGE * covariance.diagonal().diag()
    )
    eye = torch.eye(dim, dtype=x.dtype, device=x.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    return Dense(factor @ factor.mT, factor, inverse)


def _moments(x: Tensor) -> Tensor:
    """Second moments with a little of the identity mixed in, more for few rows."""
    n, dim = x.shape
    moments = x.mT @ x / n
    size = moments.diagonal().mean()
    # below two rows per dimension the moments are singular or nearly so
    share = min(0.5, _PRIOR_DRAWS * dim / n if n > 2 * dim else 0.01 * dim / n)
    eye = torch.eye(dim, dtype=x.dtype, device=x.device)
    return moments * (1 - share) + eye * size * (share * 1e-2 + _RIDGE)


def _blocks(
    scale: Tensor, x: Tensor, y: Tensor, rank: int, members: Tensor
) -> BlockLowRank:
    """Fit each block by itself, then the directions in which that does not suffice."""
    there = members >= 0  # (blocks, width)
    index, dim = members.clamp(min=0), x.shape[1]
    eye = torch.eye(members.shape[1], dtype=x.dtype, device=x.device)
    pair = there[:, :, None] & there[:, None, :]

    def moments(rows: Tensor) -> Tensor:
        parts = rows[:, index].movedim(0, 1)  # (blocks, n, width)
        found = parts.mT @ parts / len(rows) + _BLOCK_RIDGE * eye
        return torch.where(pair, found, eye)

    # back to the units of the coordinates: one symmetric root of the whole
    sizes = torch.where(there, scale[index], 1.0)
    middle = geometric_mean(moments(x), moments(y))
    whole = sizes[:, :, None] * middle * sizes[:, None, :]
    values, vectors = torch.linalg.eigh(0.5 * (whole + whole.mT))
    root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
    root = torch.where(pair, 0.5 * (root + root.mT), eye)
    none = x.new_zeros(dim, 0), x.new_zeros(0)
    plain = BlockLowRank.from_blocks(members, root, *none)
    directions = _directions(plain.root_solve(x * scale), plain.sample(y / scale), rank)
    return plain._replace(vectors=directions[0], values=directions[1])


def _directions(x: Tensor, y: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Fit in the subspace where draws or scores vary most, the identity elsewhere."""
    n = len(x)
    _, _, of_x = torch.linalg.svd(x, full_matrices=False)
    _, _, of_y = torch.linalg.svd(y, full_matrices=False)
    keep = min(rank, len(of_x), len(of_y))
    # wide directions show in the draws, narrow ones in the scores
    widest_and_narrowest = torch.cat([of_x[:keep], of_y[:keep]]).mT
    basis, _ = torch.linalg.qr(widest_and_narrowest)
    inside_x, inside_y = x @ basis, y @ basis
    eye = torch.eye(basis.shape[1], dtype=x.dtype, device=x.device)
    ridge = 1e-5
    cov_x = inside_x.mT @ inside_x / n + ridge * eye
    cov_y = inside_y.mT @ inside_y / n + ridge * eye
    values, vectors = torch.linalg.eigh(geometric_mean(cov_x, cov_y))
    # the directions furthest from the identity on either side
    order = values.log().abs().argsort(descending=True)[:rank]
    values, vectors = values[order], basis @ vectors[:, order]
    if len(values) < rank:  # vectors of zero leave the shape, and do nothing
        missing = rank - len(values)
        values = torch.cat([values, values.new_ones(missing)])
        vectors = torch.cat([vectors, vectors.new_zeros(len(vectors), missing)], 1)
    return vectors.contiguous(), values


def _cast(metric: Metric, dtype: torch.dtype) -> Metric:
    parts = (t.to(dtype) if t.is_floating_point() else t for t in metric)
    return type(metric)(*(t.contiguous() for t in parts))
