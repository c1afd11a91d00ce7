"""Every gate rejects a broken twin, and lets the sound kernel through."""

import math
import warnings

import pytest
import torch

from pyro_geo.errors import DivergenceWarning
from pyro_geo.infer import MCMC, dissipative_flow
from pyro_geo.target import Target
from pyro_geo.testing.gates import check_gaussian, check_ledger
from pyro_geo.testing.hmc import FixedHMC
from pyro_geo.testing.twins import (
    ReusedNoise,
    always_accept,
    flip_gradient,
    ignore_christoffel_term,
    without_friction_work,
)

Q = torch.tensor([[0.7, -0.4], [0.2, 1.0], [-0.5, 0.3]], dtype=torch.float64)
V = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.9, 0.9]], dtype=torch.float64)


def bowl(q):
    return (q * q).sum(-1) + 0.5 * (q[..., 0] * q[..., 1]) ** 2


def flow(loss, **options):
    """Follow three particles by the fifth-order integrator, which has no ledger gate
    of its own: only ours can notice."""
    defaults = {"integrator": "dopri5", "time": 1.0, "friction": 0.5, "batched": True}
    return dissipative_flow(loss, Q, V, **(defaults | options))


def test_the_ledger_passes_the_sound_flow():
    check_ledger(flow(bowl))
    check_ledger(flow(bowl, integrator="splitting", step_tol=0.01, energy_atol=1e-3))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ledger_rejects_a_gradient_of_the_wrong_sign(alpha):
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(flip_gradient(bowl), alpha=alpha))


def test_the_ledger_rejects_a_missing_hessian_term():
    check_ledger(flow(ignore_christoffel_term(bowl), alpha=0.0))  # no such term there
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(ignore_christoffel_term(bowl), alpha=1.0))


def test_the_ledger_rejects_friction_work_left_out():
    options = {"integrator": "splitting", "step_tol": 0.01, "energy_atol": 1e-3}
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(bowl, lift=without_friction_work, **options))


@pytest.mark.parametrize("broken", [flip_gradient, ignore_christoffel_term])
def test_the_controlled_step_gets_stuck_rather_than_err(broken):
    result = flow(broken(bowl), integrator="splitting", max_evals=2_000)
    with pytest.raises(AssertionError):
        check_ledger(result)


def check_slope(loss, mu=0.5, time=3.0):
    """Hold a particle on the slope `2 x` against its closed form under drag."""
    start = torch.zeros(1, 1, dtype=torch.float64)
    result = dissipative_flow(
        loss,
        start,
        start,
        time=time,
        friction=mu,
        alpha=1.0,
        integrator="dopri5",
        k_stop=0.0,
        batched=True,
    )
    w = math.sqrt(1 + 2.0**2)
    rate = math.sqrt(math.sqrt(2) * 2.0 / (mu * w)) * mu / math.sqrt(2)
    exact = -math.log(math.cosh(rate * time)) / (w * mu / math.sqrt(2))
    error = abs(float(result.theta) - exact)
    assert error < 1e-4, f"the particle is {error:.2e} away from the closed form"


def test_the_closed_form_rejects_a_gradient_of_the_wrong_sign():
    check_slope(lambda q: 2 * q.sum(-1))
    with pytest.raises(AssertionError, match="closed form"):
        check_slope(flip_gradient(lambda q: 2 * q.sum(-1)))


COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def normal():
    precision = torch.linalg.inv(COVARIANCE)
    return Target.from_potential(
        lambda q: 0.5 * (q - MEAN) @ precision @ (q - MEAN), 2, dtype=torch.float64
    )


def stationary(kernel, chains=300, draws=100):
    """Run from exact draws of the target: a sound kernel stays in distribution."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(chains, 2, generator=generator, dtype=torch.float64)
    start = MEAN + z @ torch.linalg.cholesky(COVARIANCE).T
    fit = MCMC(
        kernel,
        draws,
        0,
        chains,
        seed=0,
        initial_params={"q": start},
        progress_bar=False,
    )
    return fit.run().positions


STEP = {"step_size": 0.9, "num_steps": 2}


def test_a_sound_sampler_stays_in_a_gaussian(normal):
    check_gaussian(stationary(FixedHMC(normal, **STEP)), MEAN, COVARIANCE)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda t: FixedHMC(t, **STEP, transition=always_accept), "moment"),
        (lambda t: ReusedNoise(t, **STEP), "moment|R-hat"),
    ],
    ids=["dropped acceptance", "reused noise"],
)
def test_a_broken_sampler_leaves_a_gaussian(normal, make, fault):
    draws = stationary(make(normal))
    with pytest.raises(AssertionError, match=fault):
        check_gaussian(draws, MEAN, COVARIANCE)


def test_a_gaussian_of_the_wrong_sign_is_left(normal):
    climbing = Target.from_potential(
        lambda q: flip_gradient(lambda x: -normal.log_prob(x))(q[None])[0],
        2,
        dtype=torch.float64,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        draws = stationary(FixedHMC(climbing, **STEP))
    with pytest.raises(AssertionError):
        check_gaussian(draws, MEAN, COVARIANCE)


def test_a_stuck_sampler_is_noticed_by_its_chains(normal):
    stuck = stationary(FixedHMC(normal, step_size=1e-3, num_steps=1))
    with pytest.raises(AssertionError, match="R-hat|effective"):
        check_gaussian(stuck, MEAN, COVARIANCE)
