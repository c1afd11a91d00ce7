"""Metrics: a diagonal in every form, and fits that find the covariance."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import constraints

from pyro_geo.density import Layout, Target
from pyro_geo.geometry.block_matrices import BlockLowRank
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank
from pyro_geo.infer import HMC
from pyro_geo.infer.mcmc.hmc.fisher import fisher_scale, fit_metric, geometric_mean
from pyro_geo.infer.mcmc.hmc.metric import diagonal_as, kind_of, plate_blocks
from tests.cases import numbers
from tests.geometry.test_matrices import positive_definite

KINDS: Any = ("diagonal", "dense", "low_rank")
PAIRS = torch.tensor([[0, 3], [1, 4], [2, -1]])


@pytest.mark.parametrize("kind", [*KINDS, "blocks"])
def test_a_diagonal_may_be_written_as_any_kind(kind):
    scale = numbers(5).exp()
    metric = diagonal_as(kind, scale, rank=2, members=PAIRS)
    assert kind_of(metric) == kind
    grad = numbers(3, 5, seed=1)
    torch.testing.assert_close(metric.matvec(grad), grad * scale.square())
    torch.testing.assert_close(metric.sample(grad), grad * scale)
    torch.testing.assert_close(metric.root_solve(grad), grad / scale)


# -- fits -------------------------------------------------------------------------


@given(dim=st.integers(1, 8), seed=st.integers(0, 1000))
def test_the_geometric_mean_solves_its_equation(dim, seed):
    a, b = positive_definite(dim, seed), positive_definite(dim, seed + 1)
    found = geometric_mean(a, b)
    torch.testing.assert_close(found @ b @ found, a, rtol=1e-8, atol=1e-8)
    assert bool((torch.linalg.eigvalsh(found) > 0).all())


def test_a_normal_density_is_known_from_any_few_points():
    """The points are not from the density; `dim + 2` of them determine it."""
    dim = 6
    covariance = positive_definite(dim)
    precision = torch.linalg.inv(covariance)
    q = 3 * torch.rand(dim + 2, dim, generator=_generator(), dtype=torch.float64) + 10
    grad = (q - 1.0) @ precision
    q, grad = q - q.mean(0), grad - grad.mean(0)
    found = geometric_mean(q.mT @ q, grad.mT @ grad)
    torch.testing.assert_close(found, covariance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_dense_fit_is_exact_but_for_its_ridge(sign):
    """With 400 rows the identity mixed in weighs 1e-7 of a moment."""
    dim = 5
    covariance = positive_definite(dim)
    q = 10 + 3 * torch.rand(400, dim, generator=_generator(), dtype=torch.float64)
    grad = sign * (q - 1.0) @ torch.linalg.inv(covariance)
    metric = fit_metric("dense", q, grad, rank=2)
    assert isinstance(metric, Dense)
    torch.testing.assert_close(metric.matrix, covariance, rtol=1e-4, atol=1e-4)
    product = metric.root @ metric.root.mT
    torch.testing.assert_close(product, metric.matrix)
    eye = torch.eye(dim, dtype=torch.float64)
    torch.testing.assert_close(metric.root @ metric.root_inverse, eye)


def test_few_rows_of_noise_make_no_wild_metric():
    """As many rows as dimensions: what is not determined is bounded."""
    metric = fit_metric("dense", numbers(8, 8), numbers(8, 8, seed=1), rank=2)
    assert isinstance(metric, Dense)
    scales = torch.linalg.eigvalsh(metric.matrix)
    assert float(scales.max() / scales.min()) < 1e8


def test_independent_coordinates_have_their_own_scales():
    scale = torch.tensor([1e-4, 1.0, 30.0, 1e4], dtype=torch.float64)
    q = scale * numbers(50, 4) + 5
    grad = (q - 5) / scale.square()
    for kind in KINDS:
        metric = fit_metric(kind, q, grad, rank=1)
        assert metric is not None
    diagonal = fit_metric("diagonal", q, grad, rank=1)
    assert isinstance(diagonal, Diagonal)
    torch.testing.assert_close(diagonal.scale, scale)
    q, grad = q - q.mean(0), numbers(50, 4, seed=1)
    expected = (q.square().mean(0) / grad.square().mean(0)) ** 0.25
    torch.testing.assert_close(fisher_scale(q, grad), expected)


def test_a_low_rank_fit_finds_a_diagonal_with_a_few_spikes():
    """Six of forty coordinates hang together; the moments are exactly the density's."""
    dim, n, rank = 40, 200, 8
    block = positive_definite(6, ridge=0.01)
    covariance = torch.eye(dim, dtype=torch.float64)
    covariance[:6, :6] = block
    scale = numbers(dim, seed=3).exp()
    covariance = scale.diag() @ covariance @ scale.diag()
    rows = numbers(n, dim, seed=4)
    rows = torch.linalg.qr(rows - rows.mean(0)).Q * n**0.5  # covariance one
    q = rows @ torch.linalg.cholesky(covariance).mT
    metric = fit_metric("low_rank", q, q @ torch.linalg.inv(covariance), rank)
    assert isinstance(metric, LowRank)
    assert metric.vectors.shape == (dim, rank)
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(metric.vectors.mT @ metric.vectors, eye)
    # directions in which the two disagree, by how much; the ridge is 1e-5 of a unit
    whitened = metric.root_solve(torch.linalg.cholesky(covariance).mT)
    ratios = torch.linalg.svdvals(whitened).square()
    condition = float(torch.linalg.cond(block))
    assert float((ratios - 1).abs().max()) < 1e-5 * condition


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_rows_are_borne(kind):
    q, grad = numbers(60, 4), numbers(60, 4, seed=1)
    whole = fit_metric(kind, q, grad, rank=2)
    assert whole is not None
    # rows with NaN or infinity are as good as absent
    bad_q = torch.cat([q, torch.full((2, 4), torch.nan, dtype=torch.float64)])
    bad_grad = torch.cat([grad, torch.ones(2, 4, dtype=torch.float64)])
    bad_q[-1], bad_grad[-1, 2] = 0.0, torch.inf
    clean = fit_metric(kind, bad_q, bad_grad, rank=2)
    assert clean is not None
    for found, expected in zip(clean, whole, strict=True):
        assert torch.equal(found, expected)
    # a coordinate that stands still, or without a slope, keeps scale one
    for which in (0, 1):
        still = [q.clone(), grad.clone()]
        still[which][:, 1] = 3.0
        metric = fit_metric(kind, still[0], still[1], rank=2)
        assert metric is not None
        assert all(bool(part.isfinite().all()) for part in metric)
        if isinstance(metric, Diagonal):
            assert float(metric.scale[1]) == 1.0
    assert fit_metric(kind, q[:2], grad[:2], rank=2) is None
    nothing = torch.full_like(q, torch.nan)
    assert fit_metric(kind, nothing, grad, rank=2) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_keeps_the_dtype(kind):
    metric = fit_metric(kind, numbers(60, 4).float(), numbers(60, 4).float(), rank=9)
    assert metric is not None
    assert {part.dtype for part in metric} == {torch.float32}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- blocks -------------------------------------------------------------------------


def supports(**shapes):
    real = constraints.real
    return {name: (torch.Size(shape), real) for name, shape in shapes.items()}


def blocks_of(layout):
    rows = plate_blocks(layout).tolist()
    return sorted([i for i in row if i >= 0] for row in rows)


def test_elements_of_plates_are_blocks():
    dims = {"a": ("s",), "b": ("s",), "c": ("s", "t")}
    layout = Layout.from_supports(supports(mu=(), a=(2,), b=(2, 2), c=(2, 3)), dims)
    found = blocks_of(layout)
    # mu; a and the two numbers of b for each s; each c alone
    assert found[:3] == [[0], [1, 3, 4], [2, 5, 6]]
    assert found[3:] == [[i] for i in range(7, 13)]
    assert plate_blocks(layout).shape == (9, 3)


def test_blocks_are_never_wide_and_lost_axes_make_none():
    wide = Layout.from_supports(supports(w=(2, 20), mu=(9,)), {"w": ("s",)})
    assert blocks_of(wide) == [[i] for i in range(49)]
    # a site that has fewer axes than plates
    odd = Layout.from_supports(supports(a=(2,), mu=()), {"a": ("s", "t")})
    assert blocks_of(odd) == [[0, 1, 2]]


def test_correlations_inside_blocks_are_known_from_few_points():
    """Each pair hangs together in its own way; 12 points in 41 dimensions."""
    pairs = 20
    dim = 2 * pairs + 1
    members = torch.tensor([[i, pairs + i] for i in range(pairs)] + [[dim - 1, -1]])
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for i in range(pairs):
        index = members[i]
        covariance[index[:, None], index] = positive_definite(2, seed=i)
    covariance[-1, -1] = 4.0
    q = 3 * torch.rand(12, dim, generator=_generator(), dtype=torch.float64) + 10
    metric = fit_metric("blocks", q, q @ torch.linalg.inv(covariance), 4, members)
    assert isinstance(metric, BlockLowRank)
    # the ridge is 1e-4 of a unit
    torch.testing.assert_close(metric.dense(), covariance, rtol=2e-2, atol=2e-3)
    assert metric.partners.dtype == torch.long


def test_auto_takes_blocks_where_there_are_some():
    options = HMC(Target.from_potential(lambda q: q.square().sum(), 2)).options
    assert options.kind(1000, 100, 2) == "blocks"
    assert options.kind(1000, 99, 2) == "diagonal"
    assert options.kind(1000, 320, 7) == "low_rank"
    assert options.kind(100, 1000, 2) == "dense"
