r"""Distances of positive-definite matrices, without writing large ones out.

With :math:`\lambda` the eigenvalues of :math:`A^{-1} B`:

=========================== ====================================== ==================
distance                    formula                                unchanged by
=========================== ====================================== ==================
:func:`airm`                :math:`\|\log\lambda - \text{mean}\|`  congruence, scale
:func:`stein`               :math:`\sum \log\frac{1+\lambda}{2}    congruence
                            - \frac12 \log\lambda`
:func:`kl`                  :math:`\frac12\sum(\lambda - 1 -       congruence
                            \log\lambda)`
:func:`bures_wasserstein`   :math:`W_2` of centred normals         rotation
:func:`log_euclidean`       :math:`\|\log A - \log B\|_F`          rotation, a common
                                                                   scale
:func:`spectrum_distance`   mean gap of sorted log-eigenvalues     rotation
=========================== ====================================== ==================

All are computed in double precision. Two low ranks above floors need the directions
that either has, :math:`O(d k^2)`; two Kronecker products and two sums of blocks
need their factors alone.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.geometry._pairs import (
    Diagonals,
    Pair,
    Product,
    Sum,
    pair_of,
    refuse,
)
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.geometry.spectra import eigenvalues
from pyro_geo.geometry.whitening import whitened

__all__ = [
    "airm",
    "bures_wasserstein",
    "kl",
    "log_euclidean",
    "relative_spectrum",
    "spectrum_distance",
    "stein",
]


def relative_spectrum(
    a: PositiveDefinite, b: PositiveDefinite
) -> tuple[Tensor, Tensor]:
    r"""Logarithms of the eigenvalues of :math:`A^{-1} B`.

    `A` is whitened by its Cholesky factor; nothing is inverted.

    Args:
        a: positive definite.
        b: positive definite, of as many rows.

    Returns:
        The logarithms, and how many eigenvalues each stands for, `(n,)` both. The
        directions in which two low ranks are constants are one entry.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> one, two = Diagonal(torch.ones(2)), Diagonal(torch.tensor([1.0, 2.0]))
        >>> relative_spectrum(one, two)[0].exp().tolist()
        [1.0, 4.0]
    """
    return _relative(pair_of(a, b, congruent=True))


def airm(a: PositiveDefinite, b: PositiveDefinite, *, scale_free: bool = True) -> float:
    r"""Affine-invariant Riemannian distance, :math:`\|\log\lambda\|_2`.

    Args:
        a: positive definite.
        b: positive definite, of as many rows.
        scale_free: whether to take the mean off the logarithms, so that a matrix has
            no distance from its multiples: a learning rate undoes them.

    Returns:
        The distance.

    References:
        Pennec, Fillard and Ayache (2006), A Riemannian framework for tensor computing.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> one, two = Diagonal(torch.ones(2)), Diagonal(torch.tensor([1.0, 2.0]))
        >>> airm(one, two, scale_free=False) == 2 * math.log(2)
        True
    """
    logs, counts = relative_spectrum(a, b)
    if scale_free:
        logs = logs - (counts * logs).sum() / counts.sum()
    return float((counts * logs.square()).sum().sqrt())


def stein(a: PositiveDefinite, b: PositiveDefinite) -> float:
    r"""Stein's divergence, :math:`\log\det\frac{A+B}2 - \frac12\log\det AB`.

    Args:
        a: positive definite.
        b: positive definite, of as many rows.

    Returns:
        Non-negative; its square root is a metric.

    References:
        Sra (2012), A new metric on the manifold of kernel matrices with application to
        matrix geometric means, arXiv 1110.1773.
    """
    logs, counts = relative_spectrum(a, b)
    # log((1 + e^x) / 2) - x / 2 = log cosh(x / 2), written so that it cannot overflow
    half = 0.5 * logs.abs()
    terms = half + torch.log1p((-2 * half).exp()) - math.log(2)
    return float((counts * terms).sum().clamp(min=0))


def kl(a: PositiveDefinite, b: PositiveDefinite) -> float:
    r"""Divergence of centred normals of precisions `A` and `B`, in nats.

    .. math:: \mathrm{KL}(N(0, A^{-1}) \,\|\, N(0, B^{-1}))
              = \tfrac12 \sum (\lambda - 1 - \log\lambda)

    Args:
        a: precision of the first.
        b: precision of the second.

    Returns:
        Non-negative.
    """
    logs, counts = relative_spectrum(a, b)
    return float((counts * (torch.expm1(logs) - logs)).sum().clamp(min=0) / 2)


def bures_wasserstein(a: PositiveDefinite, b: PositiveDefinite) -> float:
    r"""2-Wasserstein distance of centred normals of covariances `A` and `B`.

    .. math:: d^2 = \operatorname{tr} A + \operatorname{tr} B
              - 2 \operatorname{tr} (A^{1/2} B A^{1/2})^{1/2}

    Args:
        a: positive definite.
        b: positive definite, of as many rows.

    Returns:
        The distance itself, not its square.

    References:
        Bhatia, Jain and Lim (2019), On the Bures-Wasserstein distance between positive
        definite matrices, arXiv 1712.01504.
    """
    pair = pair_of(a, b, congruent=False)
    one, two, both = _traces(pair)
    return float((one + two - 2 * both).clamp(min=0).sqrt())


def log_euclidean(a: PositiveDefinite, b: PositiveDefinite) -> float:
    r"""Distance of matrix logarithms, :math:`\|\log A - \log B\|_F`.

    Args:
        a: positive definite.
        b: positive definite, of as many rows.

    Returns:
        The distance.

    References:
        Arsigny, Fillard, Pennec and Ayache (2006), Log-Euclidean metrics for fast and
        simple calculus on diffusion tensors.
    """
    square, _, _ = _log_gap(pair_of(a, b, congruent=False))
    return float(square.clamp(min=0).sqrt())


def spectrum_distance(a: PositiveDefinite, b: PositiveDefinite) -> float:
    """Mean absolute gap of the sorted logarithms of eigenvalues.

    It sees no directions: a rotation costs nothing.

    Args:
        a: positive definite.
        b: positive definite, of as many rows.

    Returns:
        The gap, in nats.
    """
    check_shape("b", (b.dim,), (a.dim,))
    one, two = eigenvalues(a), eigenvalues(b)
    least = min(float(one[0]), float(two[0]))
    if not least > 0:
        refuse(f"an eigenvalue of {least:.3g}")
    return float((one.log() - two.log()).abs().mean())


# -- by kind of pair ------------------------------------------------------------------


def _relative(pair: Pair) -> tuple[Tensor, Tensor]:
    if isinstance(pair, Diagonals):
        return pair.b.log() - pair.a.log(), torch.ones_like(pair.a)
    if isinstance(pair, Sum):
        logs, counts = zip(*map(_relative, pair.pairs), strict=True)
        return torch.cat(logs), torch.cat(counts)
    if isinstance(pair, Product):
        # eigenvalues of a Kronecker product are all products of those of its factors
        found = [_relative(one) for one in pair.pairs]
        logs, counts = found[0]
        for x, n in found[1:]:
            logs = (logs[:, None] + x).flatten()
            counts = (counts[:, None] * n).flatten()
        return logs, counts
    values = torch.linalg.eigvalsh(whitened(pair.b, _root(pair.a)))
    if values.numel() and not bool(values[0] > 0):
        refuse(f"an eigenvalue of {float(values[0]):.3g}")
    logs, counts = values.log(), torch.ones_like(values)
    if pair.copies:
        low, high = pair.floors
        logs = torch.cat([logs, (high / low).log().reshape(1)])
        counts = torch.cat([counts, counts.new_tensor([float(pair.copies)])])
    return logs, counts


def _traces(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Traces of `A`, of `B` and of the root of their product."""
    if isinstance(pair, Diagonals):
        return pair.a.sum(), pair.b.sum(), (pair.a.sqrt() * pair.b.sqrt()).sum()
    if isinstance(pair, Sum):
        parts = [torch.stack(_traces(one)) for one in pair.pairs]
        one, two, both = torch.stack(parts).sum(0)
        return one, two, both
    if isinstance(pair, Product):
        parts = [torch.stack(_traces(one)) for one in pair.pairs]
        one, two, both = functools.reduce(torch.mul, parts)
        return one, two, both
    # the singular values of R_A' R_B are the roots of the eigenvalues of A B
    both = torch.linalg.svdvals(_root(pair.a).mT @ _root(pair.b)).sum()
    low, high = pair.floors
    return (
        pair.a.trace() + pair.copies * low,
        pair.b.trace() + pair.copies * high,
        both + pair.copies * (low * high).sqrt(),
    )


def _log_gap(pair: Pair) -> tuple[Tensor, Tensor, int]:
    """Squared norm and trace of `log A - log B`, and the number of rows."""
    if isinstance(pair, Diagonals):
        gap = pair.a.log() - pair.b.log()
        return gap.square().sum(), gap.sum(), len(gap)
    if isinstance(pair, Sum):
        squares, traces, sizes = zip(*map(_log_gap, pair.pairs), strict=True)
        return torch.stack(squares).sum(), torch.stack(traces).sum(), sum(sizes)
    if isinstance(pair, Product):
        # log(A x B) = log A x I + I x log B
        square, trace, size = _log_gap(pair.pairs[0])
        for s, t, n in map(_log_gap, pair.pairs[1:]):
            square = n * square + size * s + 2 * trace * t
            trace, size = n * trace + size * t, size * n
        return square, trace, size
    gap = _log(pair.a) - _log(pair.b)
    square, trace, size = gap.square().sum(), gap.trace(), len(gap) + pair.copies
    if pair.copies:
        low, high = pair.floors
        rest = low.log() - high.log()
        square, trace = square + pair.copies * rest**2, trace + pair.copies * rest
    return square, trace, size


def _root(matrix: Tensor) -> Tensor:
    root, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        refuse("a Cholesky factor that does not exist")
    return root


def _log(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    if values.numel() and not bool(values[0] > 0):
        refuse(f"an eigenvalue of {float(values[0]):.3g}")
    return (vectors * values.log()) @ vectors.mT
