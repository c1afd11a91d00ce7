"""The Laplace approximation: exact for normal densities, honest about repairs."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    ConvergenceWarning,
    MissingCurvatureError,
    NotPositiveDefiniteError,
    ShapeError,
)
from pyro_geo.geometry import laplace as module
from pyro_geo.geometry.curvature import GaussNewton, PriorHessian
from pyro_geo.geometry.laplace import laplace
from pyro_geo.testing.gates import check_covariance
from tests.cases import numbers, regression

F64 = torch.float64
X, Y = numbers(3, 5), numbers(3, seed=1)
# noise 0.5 and prior variance 1, see the model
PRECISION = X.T @ X / 0.25 + torch.eye(5, dtype=F64)
MEAN = torch.linalg.solve(PRECISION, X.T @ Y / 0.25)
BOTH = pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])


@pytest.fixture(scope="module")
def target():
    return Target.from_model(regression, X, Y, dtype=F64)


def quadratic(values, dtype=F64):
    """A potential whose Hessian has these eigenvalues, on turned axes."""
    axes = torch.linalg.qr(numbers(len(values), len(values), seed=5)).Q.to(dtype)
    matrix = axes @ torch.tensor(values, dtype=dtype).diag() @ axes.mT
    target = Target.from_potential(
        lambda q: 0.5 * q @ matrix @ q, len(values), dtype=dtype
    )
    return target, axes


@BOTH
def test_a_normal_posterior_is_found_exactly(target, curvature):
    found = laplace(target, MEAN, curvature=curvature)
    torch.testing.assert_close(found.precision.dense(), PRECISION)
    torch.testing.assert_close(found.log_det(), -torch.logdet(PRECISION))
    assert found.smallest.isnan()
    assert int(found.num_repaired) == 0
    # the evidence of a linear model with normal noise, in closed form
    covariance = X @ X.T + 0.25 * torch.eye(3, dtype=F64)
    exact = dist.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(Y)
    torch.testing.assert_close(found.log_evidence(target), exact)


@BOTH
def test_draws_have_the_covariance_and_a_generator_of_their_own(target, curvature):
    found = laplace(target, MEAN, curvature=curvature)
    state = torch.get_rng_state()
    draws = found.draw(20_000, torch.Generator().manual_seed(0))
    check_covariance(draws - MEAN, torch.linalg.inv(PRECISION), false_alarm=1e-4)
    again = found.draw(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(draws, again)
    assert torch.equal(torch.get_rng_state(), state)
    # the twin that forgot to transpose the root
    wrong = found.precision.root_solve(draws - MEAN)
    with pytest.raises(AssertionError):
        check_covariance(wrong, torch.linalg.inv(PRECISION))


def test_nothing_is_inverted(target, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a matrix was inverted")

    for name in ("inverse", "pinverse", "cholesky_inverse"):
        monkeypatch.setattr(torch, name, never)
    for name in ("inv", "pinv", "inv_ex"):
        monkeypatch.setattr(torch.linalg, name, never)
    laplace(target, MEAN).draw(3, torch.Generator().manual_seed(0))


def test_flat_and_falling_directions_get_the_precision_asked_for():
    target, axes = quadratic([-3.0, 0.0, 1e-30, 4.0])
    found = laplace(target, torch.zeros(4, dtype=F64), curvature="hessian", flat=2.0)
    expected = axes @ torch.tensor([2.0, 2.0, 2.0, 4.0], dtype=F64).diag() @ axes.mT
    torch.testing.assert_close(found.precision.dense(), expected)
    assert int(found.num_repaired) == 3
    assert float(found.smallest) == pytest.approx(-3.0)


def test_a_floor_is_the_least_precision_left_alone():
    target, axes = quadratic([0.5, 1.0, 2.0])
    found = laplace(
        target, torch.zeros(3, dtype=F64), curvature="hessian", floor=1.5, flat=1.5
    )
    expected = axes @ torch.tensor([1.5, 1.5, 2.0], dtype=F64).diag() @ axes.mT
    torch.testing.assert_close(found.precision.dense(), expected)
    assert int(found.num_repaired) == 2


def test_sizes_of_eigenvalues_stand_in_for_their_sign():
    target, axes = quadratic([-3.0, 0.5, 2.0])
    found = laplace(target, torch.zeros(3, dtype=F64), curvature="hessian")
    expected = axes @ torch.tensor([3.0, 0.5, 2.0], dtype=F64).diag() @ axes.mT
    torch.testing.assert_close(found.precision.dense(), expected)
    assert int(found.num_repaired) == 1


@pytest.mark.parametrize(
    ("values", "flat"), [([0.0, 1.0], "size"), ([-1.0, 1.0], "refuse")]
)
def test_a_direction_that_cannot_be_repaired_is_an_error(values, flat):
    target, _ = quadratic(values)
    with pytest.raises(NotPositiveDefiniteError, match="precision in every direction"):
        laplace(target, torch.zeros(2, dtype=F64), curvature="hessian", flat=flat)


@pytest.mark.parametrize("options", [{}, {"flat": 1.0, "floor": 0.0}])
def test_a_saddle_has_no_evidence(options):
    """Beside a mode and a flat direction, which have one."""
    target = Target.from_potential(
        lambda q: (q[0] ** 2 - 1) ** 2 + q[1] ** 2 + 0.5 * q[2] ** 2, 3, dtype=F64
    )
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    found = laplace(target, points, curvature="hessian", **options)
    with pytest.warns(ConvergenceWarning, match="1 of 2 points.*eigenvalue -4"):
        evidence = found.log_evidence(target)
    assert evidence.isnan().tolist() == [True, False]
    exact = 1.5 * math.log(2 * math.pi) - 0.5 * math.log(8.0 * 2.0)
    assert float(evidence[1]) == pytest.approx(exact)
    flat, _ = quadratic([0.0, 1.0, 4.0])
    found = laplace(flat, torch.zeros(3, dtype=F64), curvature="hessian", flat=2.0)
    assert bool(found.log_evidence(flat).isfinite())


def test_a_hessian_that_is_not_finite_is_flat_all_over():
    target = Target.from_potential(lambda q: q.abs().pow(1.5).sum(), 2, dtype=F64)
    found = laplace(target, torch.zeros(2, dtype=F64), curvature="hessian", flat=1.0)
    assert found.precision.dense().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert int(found.num_repaired) == 2


def test_several_modes_each_have_their_own(target):
    modes = torch.stack([MEAN, MEAN + 1])
    found = laplace(target, modes, curvature="hessian")
    torch.testing.assert_close(found.precision.dense(), PRECISION.expand(2, 5, 5))
    noise = numbers(2, 5, seed=7)
    one = laplace(target, modes[1], curvature="hessian")
    # eigenvectors have no sign: the draws of two runs may be mirror images
    for name in ("solve", "norm"):
        ours, alone = (getattr(x.precision, name) for x in (found, one))
        torch.testing.assert_close(ours(noise)[1:], alone(noise[1:]))
    moves = found.sample(noise) - modes
    torch.testing.assert_close(found.precision.norm(moves), noise.norm(dim=-1))
    assert found.log_evidence(target).shape == (2,)


def scales(y):
    tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 1.0))
    x = pyro.sample("x", dist.Normal(y.new_zeros(3), tau).to_event(1))
    pyro.sample("y", dist.Normal(x, 3.0).to_event(1), obs=y)


def test_a_hierarchical_prior_is_repaired_and_the_result_says_so():
    target = Target.from_model(scales, torch.zeros(3), dtype=F64)
    q = torch.tensor([0.0, 2.0, 2.0, 2.0], dtype=F64)
    matrix = GaussNewton(target, q).dense() + PriorHessian(target, q).dense()
    values, vectors = torch.linalg.eigh(matrix)
    assert values[0] < 0
    found = laplace(target, q)
    assert float(found.smallest) == pytest.approx(float(values[0]))
    expected = vectors @ torch.diag(values.abs()) @ vectors.T
    torch.testing.assert_close(found.precision.dense(), expected)
    with pytest.raises(NotPositiveDefiniteError):
        laplace(target, q, flat="refuse")
    repaired = laplace(target, q, flat=1.0)
    expected = vectors @ torch.where(values > 0, values, 1.0).diag() @ vectors.T
    torch.testing.assert_close(repaired.precision.dense(), expected)


def test_without_a_prior_there_is_no_precision():
    flat = Target.from_module(
        torch.nn.Linear(2, 1), lambda out, y: (out - y) ** 2, (X[:1, :2], Y[:1, None])
    )
    with pytest.raises(NotPositiveDefiniteError, match="proper prior"):
        laplace(flat, torch.zeros(3))
    found = laplace(flat, torch.zeros(3), flat=1.0)  # one row, three parameters
    assert int(found.num_repaired) == 2


def test_the_diagonal_serves_large_models(target, monkeypatch):
    monkeypatch.setattr(module, "MAX_DENSE_DIM", 3)
    found = laplace(target, MEAN, generator=torch.Generator().manual_seed(0))
    # as many probes as dimensions: exact
    torch.testing.assert_close(found.precision.dense(), PRECISION.diagonal().diag())
    draws = found.draw(20_000, torch.Generator().manual_seed(1))
    check_covariance(draws - MEAN, PRECISION.diagonal().reciprocal().diag())
    free = Target.from_potential(lambda q: q[0] ** 2, 5, dtype=F64)
    with pytest.raises(MissingCurvatureError):
        laplace(free, MEAN)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("curvature", {"curvature": "fisher"}),
        ("flat", {"flat": "unit"}),
        ("flat", {"flat": 0.0}),
        ("flat", {"flat": math.nan}),
        ("floor", {"flat": "size", "floor": 1.0}),
    ],
)
def test_an_option_out_of_range_is_named(target, name, options: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=f"argument {name}"):
        laplace(target, MEAN, **options)


def test_one_position_is_needed(target):
    with pytest.raises(ShapeError, match="argument q"):
        laplace(target, MEAN[None])
