"""Laws of the start velocities."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.engine import Noise
from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.velocity import draw_velocities
from pyro_geo.testing.gates import check_covariance
from tests.cases import numbers, regression
from tests.infer.mcmc.dims.flows import double_params, ring

X, Y = numbers(3, 5), numbers(3, seed=1)
# noise 0.5 and prior variance 1, see the model
PRECISION = X.T @ X / 0.25 + torch.eye(5, dtype=torch.float64)
Q = numbers(5, seed=2)


@pytest.fixture(scope="module")
def target():
    return Target.from_model(regression, X, Y, dtype=torch.float64)


def draw(target, draws, chains=1, anchors=None, slopes=None, laplaces=(), **options):
    anchors = Q.expand(chains, 5) if anchors is None else anchors
    slopes = torch.zeros_like(anchors) if slopes is None else slopes
    return draw_velocities(
        DIMSOptions(**options),
        anchors,
        slopes,
        list(laplaces),
        draws,
        Noise(0).block(range(chains), 0),
    )


def test_laplace_covariance_is_the_inverse_precision(target):
    found = laplace(target, Q)
    v = draw(target, 20_000, laplaces=[found], velocity_scale=2.0)[0]
    covariance = torch.linalg.inv(PRECISION)
    check_covariance(v, 4 * covariance, false_alarm=1e-4)
    # the twin that forgot to transpose
    z = Noise(0).block([0], 0).normal(20_000, 5, dtype=torch.float64)[0]
    with pytest.raises(AssertionError):
        check_covariance(found.precision.root_solve(z), covariance)


def test_chains_have_streams_and_factors_of_their_own(target):
    found = laplace(target, Q)
    both = draw(target, 4, 2, laplaces=[found, found])
    assert torch.equal(both[0], draw(target, 4, laplaces=[found])[0])
    assert not torch.equal(both[0], both[1])


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
def test_a_velocity_function_with_bad_results_is_refused(target, law, error):
    with pytest.raises(error, match="argument velocity"):
        draw(target, 3, velocity=law)
