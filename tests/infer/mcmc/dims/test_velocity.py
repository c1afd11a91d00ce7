"""Laws of the start velocities."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    MissingCurvatureError,
    NotPositiveDefiniteError,
    ShapeError,
)
from pyro_geo.infer import Noise
from pyro_geo.infer.mcmc.dims import velocity
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.velocity import (
    LaplaceFactor,
    draw_velocities,
    in_standard_deviations,
    laplace_factor,
    posterior_precision,
)
from pyro_geo.testing.gates import check_covariance
from tests.cases import numbers, regression
from tests.infer.mcmc.dims.flows import double_params, ring

X, Y = numbers(3, 5), numbers(3, seed=1)
# noise 0.5 and prior variance 1, see the model
PRECISION = X.T @ X / 0.25 + torch.eye(5, dtype=torch.float64)
Q = numbers(5, seed=2)
GENERATOR = torch.Generator()


@pytest.fixture(scope="module")
def target():
    return Target.from_model(regression, X, Y, dtype=torch.float64)


def draw(target, draws, chains=1, anchors=None, slopes=None, factors=(), **options):
    anchors = Q.expand(chains, 5) if anchors is None else anchors
    slopes = torch.zeros_like(anchors) if slopes is None else slopes
    return draw_velocities(
        DIMSOptions(**options),
        anchors,
        slopes,
        list(factors),
        draws,
        Noise(0).block(range(chains), 0),
    )


def test_the_precision_is_that_of_the_posterior(target):
    torch.testing.assert_close(posterior_precision(target, Q), PRECISION)


def test_laplace_covariance_is_the_inverse_precision(target, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a matrix was inverted")

    for name in ("inverse", "pinverse", "cholesky_inverse"):
        monkeypatch.setattr(torch, name, never)
    for name in ("inv", "pinv", "inv_ex"):
        monkeypatch.setattr(torch.linalg, name, never)
    factor = laplace_factor(target, Q, GENERATOR)
    v = draw(target, 20_000, factors=[factor], velocity_scale=2.0)[0]
    monkeypatch.undo()
    covariance = torch.linalg.inv(PRECISION)
    assert factor.smallest.isnan()
    check_covariance(v, 4 * covariance, false_alarm=1e-4)
    # the twin that forgot to transpose
    z = Noise(0).block([0], 0).normal(20_000, 5, dtype=torch.float64)[0]
    wrong = torch.linalg.solve_triangular(factor.root, z.T, upper=False).T
    with pytest.raises(AssertionError):
        check_covariance(wrong, covariance)


def test_chains_have_streams_and_factors_of_their_own(target):
    factor = laplace_factor(target, Q, GENERATOR)
    both = draw(target, 4, 2, factors=[factor, factor])
    assert torch.equal(both[0], draw(target, 4, factors=[factor])[0])
    assert not torch.equal(both[0], both[1])


def test_the_diagonal_serves_large_models(target, monkeypatch):
    monkeypatch.setattr(velocity, "MAX_DENSE_DIM", 3)
    generator = torch.Generator().manual_seed(0)
    factor = laplace_factor(target, Q, generator)
    assert factor.root.shape == (5,)
    # 64 probes of a matrix whose rows have this much off the diagonal
    precision = PRECISION.diagonal()
    off = (PRECISION.square().sum(-1) - precision.square()).sqrt()
    error = (factor.root.square() - precision).abs()
    assert bool((error <= 5 * off / 64**0.5).all())
    v = draw(target, 20_000, factors=[factor])[0]
    check_covariance(v, torch.diag(factor.root.double() ** -2))
    free = Target.from_potential(lambda q: q[0] ** 2, 5, dtype=torch.float64)
    with pytest.raises(MissingCurvatureError):
        laplace_factor(free, Q, generator)


def test_lengths_in_standard_deviations(target):
    moves = numbers(6, 5)
    expected = (moves @ PRECISION * moves).sum(-1).sqrt()
    factor = laplace_factor(target, Q, GENERATOR)
    torch.testing.assert_close(in_standard_deviations(factor, moves), expected)
    diagonal = LaplaceFactor(torch.full((5,), 2.0).double(), factor.smallest)
    torch.testing.assert_close(
        in_standard_deviations(diagonal, moves), 2 * moves.norm(dim=-1)
    )


def test_a_hierarchical_prior_is_repaired_and_the_factor_says_so():
    def scales(y):
        tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 1.0))
        x = pyro.sample("x", dist.Normal(y.new_zeros(3), tau).to_event(1))
        pyro.sample("y", dist.Normal(x, 3.0).to_event(1), obs=y)

    target = Target.from_model(scales, torch.zeros(3), dtype=torch.float64)
    q = torch.tensor([0.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(posterior_precision(target, q))
    assert values[0] < 0
    factor = laplace_factor(target, q, GENERATOR)
    assert float(factor.smallest) == pytest.approx(float(values[0]))
    torch.testing.assert_close(
        factor.root @ factor.root.T, vectors @ torch.diag(values.abs()) @ vectors.T
    )


def test_a_direction_without_precision_is_an_error():
    flat = Target.from_module(
        torch.nn.Linear(2, 1), lambda out, y: (out - y) ** 2, (X[:1, :2], Y[:1, None])
    )
    with pytest.raises(NotPositiveDefiniteError, match="proper prior"):
        laplace_factor(flat, torch.zeros(3), GENERATOR)


def test_isotropic_velocities(target):
    v = draw(target, 20_000, velocity="isotropic", velocity_scale=0.5)[0]
    check_covariance(v, 0.25 * torch.eye(5))


@pytest.mark.parametrize("alpha", [0.0, 0.7, 3.0])
def test_fixed_energy_is_exact_on_the_surface(target, alpha):
    slopes = 4 * numbers(2, 5, seed=5)
    v = draw(
        target,
        30,
        2,
        slopes=slopes,
        velocity="fixed_energy",
        initial_energy=2.5,
        alpha=alpha,
    )
    surface = Problem(ring, double_params(alpha=alpha), euclidean=False)
    kinetic = surface.kinetic_energy(v, slopes[:, None].expand_as(v))
    torch.testing.assert_close(kinetic, torch.full_like(kinetic, 2.5))


def test_fixed_energy_has_no_preferred_direction(target):
    v = draw(target, 20_000, velocity="fixed_energy", initial_energy=2.5, alpha=0.0)[0]
    check_covariance(v, torch.eye(5))  # |v|^2 = 5 over five directions


def test_a_function_draws_its_own(target):
    seen = []

    def law(anchor, n, generator):
        seen.append(anchor)
        return torch.rand(n, 5, generator=generator, dtype=torch.float64)

    v = draw(target, 3, 2, velocity=law, velocity_scale=2.0)
    assert v.shape == (2, 3, 5)
    assert bool(((v >= 0) & (v < 2)).all())
    assert torch.equal(torch.stack(seen), Q.expand(2, 5))
    assert torch.equal(v, draw(target, 3, 2, velocity=law, velocity_scale=2.0))
    assert not torch.equal(v[0], v[1])


@pytest.mark.parametrize(
    ("law", "error"),
    [
        (lambda anchor, n, generator: torch.zeros(n, 4), ShapeError),
        (lambda anchor, n, generator: torch.zeros(5), ShapeError),
        (
            lambda anchor, n, generator: torch.full((n, 5), torch.nan),
            ConfigurationError,
        ),
    ],
)
def test_a_function_that_draws_nonsense_is_named(target, law, error):
    with pytest.raises(error, match="argument 'velocity'"):
        draw(target, 3, velocity=law)
