"""Barycentres of covariances and medians of points, against closed forms."""

import pytest
import torch

from pyro_geo.errors import ConvergenceWarning, ShapeError
from pyro_geo.geometry.frechet import bures_barycenter, mahalanobis_median


def positive_definite(k: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(k, dim, dim, generator=generator, dtype=torch.float64)
    return root @ root.mT + 0.1 * torch.eye(dim, dtype=torch.float64)


def root_of(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.mT


WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def test_covariances_that_commute_are_averaged_in_their_roots():
    axes = torch.linalg.qr(positive_definite(1, 4, 1)[0]).Q
    scales = 0.5 + positive_definite(1, 4, 2)[0, :3].abs()
    matrices = torch.stack([(axes * s**2) @ axes.T for s in scales])
    expected = (axes * (WEIGHTS @ scales) ** 2) @ axes.T
    torch.testing.assert_close(
        bures_barycenter(matrices, WEIGHTS), expected, rtol=1e-9, atol=1e-9
    )


def test_a_barycentre_solves_the_equation_of_the_mean():
    matrices = positive_definite(3, 5, 3)
    center = bures_barycenter(matrices, WEIGHTS)
    root = root_of(center)
    mean = sum(
        w * root_of(root @ m @ root) for w, m in zip(WEIGHTS, matrices, strict=True)
    )
    torch.testing.assert_close(torch.as_tensor(mean), center, rtol=1e-8, atol=1e-9)


def test_a_barycentre_is_below_the_arithmetic_mean():
    matrices = positive_definite(3, 5, 4)
    mean = torch.einsum("k,kij->ij", WEIGHTS, matrices)
    gap = torch.linalg.eigvalsh(mean - bures_barycenter(matrices, WEIGHTS))
    assert gap.min() > -1e-9


def test_a_barycentre_that_is_cut_off_warns():
    with pytest.warns(ConvergenceWarning, match="barycentre"):
        bures_barycenter(positive_definite(3, 4, 0), WEIGHTS, tolerance=0.0)


def test_one_far_point_does_not_move_the_median():
    generator = torch.Generator().manual_seed(0)
    locs = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    precisions = positive_definite(9, 2, 5)
    weights = torch.full((9,), 1 / 9, dtype=torch.float64)
    found = []
    for far in (1e4, 1e9):
        locs[-1] = far
        found.append(mahalanobis_median(locs, precisions, weights)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)
    assert found[0].abs().max() < 3


def test_the_median_has_the_least_total_distance():
    generator = torch.Generator().manual_seed(1)
    locs = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    precisions = positive_definite(4, 3, 6)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    point, share = mahalanobis_median(locs, precisions, weights)
    x = point.clone().requires_grad_()
    apart = x - locs
    distance = torch.einsum("ki,kij,kj->k", apart, precisions, apart).sqrt()
    (slope,) = torch.autograd.grad((weights * distance).sum(), x)
    assert slope.abs().max() < 1e-8
    expected = weights / distance.detach()
    torch.testing.assert_close(share, expected / expected.sum())


def test_diagonals_are_matrices_too():
    generator = torch.Generator().manual_seed(2)
    locs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    diagonals = torch.rand(5, 3, generator=generator, dtype=torch.float64) + 0.1
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    one, _ = mahalanobis_median(locs, diagonals, weights)
    two, _ = mahalanobis_median(locs, torch.diag_embed(diagonals), weights)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="weights"):
        bures_barycenter(positive_definite(2, 3, 0), WEIGHTS)
