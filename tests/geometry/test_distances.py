"""Distances of matrices: closed forms, invariances, and no large matrix."""

import math
from typing import Any

import pytest
import torch

from pyro_geo.errors import (
    EigengapWarning,
    NotPositiveDefiniteError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.geometry.distances import (
    airm,
    bures_wasserstein,
    kl,
    log_euclidean,
    relative_spectrum,
    spectrum_distance,
    stein,
)
from pyro_geo.geometry.kronecker import Block, Kronecker
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank
from pyro_geo.geometry.spectra import (
    effective_rank,
    eigenvalues,
    floored,
    leading,
    principal_angles,
    trace,
)
from tests.cases import numbers
from tests.geometry.test_matrices import positive_definite

DISTANCES = (airm, bures_wasserstein, kl, log_euclidean, spectrum_distance, stein)
EVERY = pytest.mark.parametrize("distance", DISTANCES)


def dense(matrix) -> Dense:
    return Dense.from_matrix(matrix if torch.is_tensor(matrix) else matrix.dense())


def low_rank(dim: int, rank: int, seed: int, floor: float) -> LowRank:
    vectors = torch.linalg.qr(numbers(dim, rank, seed=seed)).Q
    values = 1 + (numbers(rank, seed=seed + 1)).exp()
    scale = torch.full((dim,), math.sqrt(floor), dtype=torch.float64)
    return LowRank(scale, vectors, values)


def kronecker(seed: int) -> Kronecker:
    factors = (positive_definite(3, seed), positive_definite(4, seed + 1))
    return Kronecker(tuple(map(Dense.from_matrix, factors)))


def diagonal(dim: int, seed: int) -> Diagonal:
    return Diagonal((0.5 * numbers(dim, seed=seed)).exp())


def pairs() -> dict[str, tuple]:
    scales = numbers(9, seed=3).exp()
    bent = [low_rank(9, 2, seed, 1.0)._replace(scale=scales) for seed in (1, 2)]
    shared = low_rank(9, 3, 1, 0.5)
    return {
        "diagonal": (diagonal(6, 1), diagonal(6, 2)),
        "low rank": (low_rank(9, 2, 1, 0.7), low_rank(9, 3, 4, 1.3)),
        "shared directions": (shared, shared._replace(values=shared.values * 2)),
        "scaled low rank": tuple(bent),
        "low rank and constant": (low_rank(6, 2, 1, 0.7), Diagonal(torch.ones(6))),
        "kronecker": (kronecker(1), kronecker(5)),
        "blocks": tuple(
            Block({"k": kronecker(s), "d": diagonal(3, s), "l": low_rank(7, 2, s, 2.0)})
            for s in (1, 3)
        ),
        "unlike": (kronecker(1), low_rank(12, 2, 1, 1.0)),
    }


@EVERY
@pytest.mark.parametrize("name", list(pairs()))
def test_every_form_gives_the_distance_of_the_dense_matrices(distance, name):
    a, b = pairs()[name]
    expected = distance(dense(a), dense(b))
    assert distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert expected > 0.01


def test_distances_follow_their_definitions():
    import scipy.linalg

    linalg: Any = scipy.linalg

    a, b = positive_definite(5, 1), positive_definite(5, 2)
    one, two = dense(a), dense(b)
    lam = torch.from_numpy(linalg.eigvals(torch.linalg.solve(a, b).numpy()).real)
    logs = lam.log()
    assert airm(one, two, scale_free=False) == pytest.approx(float(logs.norm()))
    assert airm(one, two) == pytest.approx(float((logs - logs.mean()).norm()))
    middle = torch.logdet((a + b) / 2) - (torch.logdet(a) + torch.logdet(b)) / 2
    assert stein(one, two) == pytest.approx(float(middle))
    normals = [
        torch.distributions.MultivariateNormal(torch.zeros(5).double(), None, m)
        for m in (a, b)
    ]
    expected = torch.distributions.kl_divergence(*normals)
    assert kl(one, two) == pytest.approx(float(expected))
    root = linalg.sqrtm(a.numpy())
    cross = linalg.sqrtm(root @ b.numpy() @ root).trace().real
    square = float(a.trace() + b.trace() - 2 * cross)
    assert bures_wasserstein(one, two) ** 2 == pytest.approx(square)
    gap = torch.from_numpy(linalg.logm(a.numpy()) - linalg.logm(b.numpy()))
    assert log_euclidean(one, two) == pytest.approx(float(gap.norm()))
    values = [torch.linalg.eigvalsh(m).log() for m in (a, b)]
    expected = float((values[0] - values[1]).abs().mean())
    assert spectrum_distance(one, two) == pytest.approx(expected)


def test_kronecker_distances_have_closed_forms():
    one, two = kronecker(1), kronecker(5)
    (x, _), (y, _) = (
        relative_spectrum(*f) for f in zip(one.factors, two.factors, strict=True)
    )
    n, m = len(x), len(y)
    square = m * x.square().sum() + n * y.square().sum() + 2 * x.sum() * y.sum()
    assert airm(one, two, scale_free=False) ** 2 == pytest.approx(float(square))
    nats = x.exp().sum() * y.exp().sum() - n * m - m * x.sum() - n * y.sum()
    assert kl(one, two) == pytest.approx(float(nats) / 2)


@pytest.mark.parametrize("distance", [airm, kl, stein])
def test_congruence_changes_nothing(distance):
    a, b, s = positive_definite(5, 1), positive_definite(5, 2), numbers(5, 5, seed=3)
    moved = distance(dense(s @ a @ s.mT), dense(s @ b @ s.mT))
    assert moved == pytest.approx(distance(dense(a), dense(b)), rel=1e-8)


@EVERY
def test_rotations_change_nothing(distance):
    a, b = positive_definite(5, 1), positive_definite(5, 2)
    turn = torch.linalg.qr(numbers(5, 5, seed=3)).Q
    moved = distance(dense(turn @ a @ turn.mT), dense(turn @ b @ turn.mT))
    assert moved == pytest.approx(distance(dense(a), dense(b)), rel=1e-8)


def test_scale_free_distance_has_no_unit_and_kronecker_no_gauge():
    a, b = positive_definite(4, 1), positive_definite(4, 2)
    assert airm(dense(7 * a), dense(b)) == pytest.approx(airm(dense(a), dense(b)))
    assert airm(dense(a), dense(9 * a)) == pytest.approx(0, abs=1e-12)
    one, two = kronecker(1), kronecker(5)
    left, right = one.factors
    other = Kronecker((dense(3 * left.dense()), dense(right.dense() / 3)))
    for distance in DISTANCES:
        assert distance(other, two) == pytest.approx(distance(one, two), rel=1e-9)


def test_a_step_of_rank_one_has_a_known_distance():
    m, g = positive_definite(6, 1), numbers(6, seed=2)
    expected = torch.log1p(g @ torch.linalg.solve(m, g))
    found = airm(dense(m), dense(m + torch.outer(g, g)), scale_free=False)
    assert found == pytest.approx(float(expected))


def test_a_million_rows_cost_no_matrix():
    dim = 1_000_000
    axes = torch.zeros(dim, 2, dtype=torch.float64)
    axes[0, 0] = axes[5, 1] = 1.0
    scale = torch.ones(dim, dtype=torch.float64)
    one = LowRank(scale, axes[:, :1], torch.tensor([4.0]).double())
    two = LowRank(scale, axes[:, 1:], torch.tensor([9.0]).double())
    expected = math.hypot(math.log(4), math.log(9))
    assert airm(one, two, scale_free=False) == pytest.approx(expected)
    assert log_euclidean(one, two) == pytest.approx(expected)
    assert bures_wasserstein(one, two) == pytest.approx(math.hypot(1, 2))


@pytest.mark.parametrize("turn", [0.0, 1e-16, 1e-12, 1e-7])
def test_low_ranks_that_nearly_share_their_directions_are_exact(turn):
    one = low_rank(12, 4, 1, 0.7)._replace(values=torch.tensor([1e6, 1e4, 9, 2.0]))
    moved = torch.linalg.qr(one.vectors + turn * numbers(12, 4, seed=8)).Q
    sign = (moved * one.vectors).sum(0).sign()
    two = one._replace(vectors=moved * sign)
    expected = airm(dense(one), dense(two))
    assert airm(one, two) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_unlike_forms_that_are_too_large_are_refused():
    dim = 5000
    one = Diagonal(torch.linspace(1, 2, dim))
    two = low_rank(dim, 1, 1, 1.0)
    with pytest.raises(UnsupportedError, match="unlike forms"):
        airm(one, two)


@EVERY
def test_singular_matrices_are_refused_and_floored_ones_are_not(distance):
    one, two = Diagonal(torch.tensor([1.0, 0.0])), Diagonal(torch.tensor([1.0, 2.0]))
    with pytest.raises(NotPositiveDefiniteError, match="floored"):
        distance(one, two)
    assert distance(floored(one), floored(two)) > 0
    factor = Dense(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(NotPositiveDefiniteError):
        distance(factor, dense(positive_definite(2)))


def test_shapes_and_blocks_must_agree():
    with pytest.raises(ShapeError):
        airm(diagonal(3, 1), diagonal(4, 1))
    one, two = Block({"a": diagonal(3, 1)}), Block({"b": diagonal(3, 1)})
    with pytest.raises(ShapeError, match="blocks"):
        airm(one, two)


# -- spectra --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:leading directions")
@pytest.mark.parametrize("name", list(pairs()))
def test_spectra_are_those_of_the_dense_matrix(name):
    for matrix in pairs()[name]:
        values = torch.linalg.eigvalsh(matrix.dense().double())
        torch.testing.assert_close(eigenvalues(matrix), values)
        assert trace(matrix) == pytest.approx(float(values.sum()))
        share = values / values.sum()
        entropy = -(share * share.log()).sum()
        assert effective_rank(matrix) == pytest.approx(float(entropy.exp()))
        found = leading(matrix, 2)
        torch.testing.assert_close(found.values, values.flip(0)[:2])
        moved = matrix.dense().double() @ found.vectors
        torch.testing.assert_close(moved, found.vectors * found.values)


def test_floors_are_shares_of_the_mean_eigenvalue():
    for name in ("diagonal", "low rank", "scaled low rank", "unlike"):
        matrix = pairs()[name][-1]
        size = float(matrix.dense().diagonal().mean())
        expected = matrix.dense() + 0.1 * size * torch.eye(matrix.dim)
        torch.testing.assert_close(floored(matrix, 0.1).dense(), expected)
    half = Diagonal(torch.tensor([2.0, 0.0]).double().sqrt())  # mean eigenvalue 1
    product = floored(Kronecker((half, half)), 0.01)
    expected = torch.tensor([2.1 * 2.1, 0.21, 0.21, 0.01]).double()
    torch.testing.assert_close(product.dense().diagonal(), expected)
    nothing = floored(Diagonal(torch.zeros(3)))
    assert torch.equal(nothing.dense(), torch.eye(3).double())


def test_directions_without_a_gap_are_warned_of():
    with pytest.warns(EigengapWarning, match="gap of 0 "):
        leading(Diagonal(torch.tensor([2.0, 1.0, 1.0])), 2)
    full = leading(low_rank(6, 2, 1, 1.0), 2)
    assert full.gap > 0.05


@pytest.mark.parametrize("angle", [0.0, 1e-14, 1e-9, 1e-3, 0.7, 0.8, math.pi / 2])
def test_angles_are_exact_however_small(angle):
    one = torch.eye(4, 2, dtype=torch.float64)
    two = one.clone()
    two[1, 1], two[3, 1] = math.cos(angle), math.sin(angle)
    turn = torch.linalg.qr(numbers(4, 4, seed=1)).Q
    mix = numbers(2, 2, seed=2)
    found = principal_angles(turn @ one, turn @ two @ mix)
    assert float(found[0]) == pytest.approx(0, abs=1e-15 * 10)
    assert float(found[1]) == pytest.approx(angle, rel=1e-12, abs=3e-15)


def test_angles_of_unequal_ranks_are_those_of_the_smaller():
    plane = torch.eye(4, 3, dtype=torch.float64)
    line = torch.tensor([[1.0], [0.0], [0.0], [1e-9]], dtype=torch.float64)
    for pair in ((plane, line), (line, plane)):
        assert principal_angles(*pair).tolist() == pytest.approx([1e-9])
