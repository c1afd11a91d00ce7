r"""Centres of several normal distributions, by the distance that defines them.

:func:`bures_barycenter` is the Fréchet mean of covariances under the 2-Wasserstein
distance, :func:`mahalanobis_median` the point that minimises a sum of distances, each
in the metric of its own distribution.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import ConvergenceWarning

__all__ = ["bures_barycenter", "mahalanobis_median"]

_STEPS = 1000
_NEAREST = 1e-10  # a distance below it counts as this one, which bounds the weights


def bures_barycenter(
    covariances: Tensor, weights: Tensor, *, tolerance: float = 1e-10
) -> Tensor:
    r"""Find the covariance whose mean squared Wasserstein distance is least.

    It solves :math:`S = \sum_k w_k (S^{1/2} \Sigma_k S^{1/2})^{1/2}` by the iteration

    .. math:: S \leftarrow S^{-1/2} \Bigl(\sum_k w_k
              (S^{1/2} \Sigma_k S^{1/2})^{1/2}\Bigr)^2 S^{-1/2}

    Covariances that commute are averaged in their square roots.

    Args:
        covariances: positive definite, `(k, dim, dim)`.
        weights: positive, with sum 1, `(k,)`.
        tolerance: relative change at which the iteration ends.

    Returns:
        The covariance, `(dim, dim)`.

    Warns:
        ConvergenceWarning: the iteration was cut off.

    References:
        Álvarez-Esteban, del Barrio, Cuesta-Albertos and Matrán (2016), A fixed-point
        approach to barycenters in Wasserstein space.

    Example:
        >>> matrices = torch.tensor([[[1.0]], [[9.0]]], dtype=torch.float64)
        >>> half = torch.tensor([0.5, 0.5], dtype=torch.float64)
        >>> round(bures_barycenter(matrices, half).item(), 6)
        4.0
    """
    k, dim = covariances.shape[0], covariances.shape[-1]
    check_shape("covariances", covariances.shape, (k, dim, dim))
    check_shape("weights", weights.shape, (k,))
    center = torch.einsum("k,kij->ij", weights, covariances)
    change = torch.inf
    for _ in range(_STEPS):
        values, vectors = torch.linalg.eigh(center)
        root = (vectors * values.sqrt()) @ vectors.T
        inverse = (vectors * values.rsqrt()) @ vectors.T
        inside = torch.einsum("k,kij->ij", weights, _roots(root @ covariances @ root))
        new = inverse @ inside @ inside @ inverse
        new = 0.5 * (new + new.T)
        change = float((new - center).norm() / center.norm())
        center = new
        if change <= tolerance:
            return center
    _cut_off("a barycentre of covariances", change, tolerance)
    return center


def mahalanobis_median(
    locs: Tensor, precisions: Tensor, weights: Tensor, *, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    r"""Find the point of least total distance, each distance in its own metric.

    .. math:: \min_m \sum_k w_k d_k(m), \qquad
              d_k(m)^2 = (m - \mu_k)^\top \Lambda_k (m - \mu_k)

    by Weiszfeld's iteration, a weighted mean with weights :math:`w_k / d_k`. A minority
    moves it by a bounded amount, however far away it lies.

    Args:
        locs: :math:`\mu_k`, `(k, dim)`.
        precisions: :math:`\Lambda_k`, `(k, dim, dim)`; or their diagonals, `(k, dim)`.
        weights: positive, with sum 1, `(k,)`.
        tolerance: change, in the mean metric, at which the iteration ends.

    Returns:
        The point, `(dim,)`, and the normalised weights there, `(k,)`.

    Warns:
        ConvergenceWarning: the iteration was cut off.

    References:
        Weiszfeld (1937), Sur le point pour lequel la somme des distances de n points
        donnés est minimum; derived for several metrics.

    Example:
        >>> locs = torch.tensor([[0.0], [0.1], [1e6]], dtype=torch.float64)
        >>> same = torch.ones(3, 1, dtype=torch.float64)
        >>> third = torch.full((3,), 1 / 3, dtype=torch.float64)
        >>> round(mahalanobis_median(locs, same, third)[0].item(), 6)
        0.1
    """
    k, dim = locs.shape
    check_shape("weights", weights.shape, (k,))
    diagonal = precisions.dim() == 2
    expected = (k, dim) if diagonal else (k, dim, dim)
    check_shape("precisions", precisions.shape, expected)

    def times(metric: Tensor, x: Tensor) -> Tensor:
        return metric * x if diagonal else (metric @ x.unsqueeze(-1)).squeeze(-1)

    def centre(share: Tensor) -> tuple[Tensor, Tensor]:
        metric = torch.tensordot(share, precisions, 1)
        # around a point, not around zero: outliers would cost the digits
        pull = (share[:, None] * times(precisions, locs - origin)).sum(0)
        step = pull / metric if diagonal else torch.linalg.solve(metric, pull)
        return origin + step, metric

    origin = locs.median(0).values
    share = weights
    point, metric = centre(share)
    change = torch.inf
    for _ in range(_STEPS):
        apart = point - locs
        distance = (apart * times(precisions, apart)).sum(-1).clamp(min=0).sqrt()
        share = weights / distance.clamp(min=_NEAREST)
        share = share / share.sum()
        new, metric = centre(share)
        moved = new - point
        point = new
        change = float((moved * times(metric, moved)).sum().clamp(min=0).sqrt())
        if change <= tolerance:
            return point, share
    if change > 1e-6:  # close to a point the last digits come slowly, and say nothing
        _cut_off("a median of posteriors", change, tolerance)
    return point, share


def _roots(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (matrices + matrices.mT))
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def _cut_off(what: str, change: float, tolerance: float) -> None:
    warnings.warn(
        ConvergenceWarning(
            f"{what} has not converged",
            found=f"a change of {change:.3g} after {_STEPS} steps",
            expected=f"at most {tolerance:g}",
            todo="Look at the condition numbers of the posteriors.",
        ),
        stacklevel=3,
    )
