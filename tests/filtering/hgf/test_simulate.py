"""Draws of the generative model, against its moments and a loop over time."""

import math

import pytest
import torch

from pyro_geo.errors import ConfigurationError, HGFDomainError, HGFShapeError
from pyro_geo.filtering import simulate_hgf
from pyro_geo.filtering.hgf._draws import _summed

D = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=D)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(found, expected, sd, draws):
    """Compare a mean over draws with its value: six standard errors of false alarm."""
    assert abs(found - expected) < 6 * sd / math.sqrt(draws)


@pytest.mark.parametrize("rate", [1.0, 0.7, 0.0, -0.4])
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_sums_over_time_are_the_recursion(rate, steps):
    b = torch.randn(3, steps, dtype=D, generator=generator(1))
    state, states = torch.zeros(3, dtype=D), []
    for k in range(steps):
        state = rate * state + b[:, k]
        states.append(state)
    found = _summed(b, torch.tensor(rate, dtype=D))
    torch.testing.assert_close(found, torch.stack(states, -1), rtol=1e-12, atol=1e-12)


def test_moments_of_one_level_are_those_of_its_walk():
    draws = 40_000
    t, rate, drift, omega = tensor(1.0, 2.5, 0.5), 0.8, 0.3, -1.0
    drawn = simulate_hgf(
        [omega],
        None,
        [2.0],
        [4.0],
        5.0,
        time_step=t,
        drift=[drift],
        autoconnection=[rate],
        sample_shape=(draws,),
        generator=generator(),
    )
    mean, variance = 2.0, 0.25
    for k in range(3):
        mean = rate * mean + float(t[k]) * drift
        variance = rate**2 * variance + float(t[k]) * math.exp(omega)
        x = drawn.states[:, k, 0]
        close(x.mean().item(), mean, math.sqrt(variance), draws)
        close(x.var().item(), variance, math.sqrt(2) * variance, draws)
        u = drawn.inputs[:, k]
        total = variance + 0.2
        close(u.mean().item(), mean, math.sqrt(total), draws)
        close(u.var().item(), total, math.sqrt(2) * total, draws)


def test_the_level_above_sets_the_variance_and_the_drift_of_its_child():
    draws = 100_000
    omega, kappa, psi = -2.0, 0.7, 0.5
    x = simulate_hgf(
        [omega, -3.0],
        [kappa],
        [0.0, 1.0],
        [1e12, 25.0],
        1.0,
        num_steps=1,
        value_coupling=[psi],
        sample_shape=(draws,),
        generator=generator(2),
    ).states[:, 0]
    # x_2 ~ N(1, v), x_1 | x_2 ~ N(psi x_2, exp(kappa x_2 + omega))
    v = 1 / 25 + math.exp(-3.0)
    noise = math.exp(omega + kappa + 0.5 * kappa**2 * v)
    close(x[:, 0].mean().item(), psi, 1.0, draws)
    variance = noise + psi**2 * v
    close(x[:, 0].var().item(), variance, 2 * variance, draws)
    covariance = ((x[:, 0] - psi) * (x[:, 1] - 1.0)).mean().item()
    close(covariance, psi * v, 1.0, draws)


def test_binary_and_categorical_inputs_have_the_probabilities_of_the_states():
    draws = 40_000
    fixed = {"num_steps": 1, "sample_shape": (draws,)}
    levels = tensor(-0.5, 0.2, 1.1).unsqueeze(-1)
    sure = torch.full((3, 1), 1e12, dtype=D)
    still = torch.full((3, 1), -30.0, dtype=D)
    binary = simulate_hgf(
        still, None, levels, sure, kind="binary", generator=generator(3), **fixed
    )
    assert binary.inputs.shape == (draws, 3, 1)
    p = levels.sigmoid()
    for k in range(3):
        mean = binary.inputs[:, k].mean().item()
        close(mean, p[k].item(), 0.5, draws)
    classes = simulate_hgf(
        still, None, levels, sure, kind="categorical", generator=generator(4), **fixed
    )
    assert classes.states.shape == (draws, 3, 1, 1)
    assert classes.inputs.shape == (draws, 1)
    assert classes.inputs.dtype == torch.int64
    for k in range(3):
        share = (classes.inputs == k).double().mean().item()
        close(share, (p[k] / p.sum()).item(), 0.5, draws)


def test_states_that_wander_off_stay_finite():
    drawn = simulate_hgf(
        [0.0, 3.0, 4.0],
        [2.0, 2.0],
        [0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0],
        1.0,
        num_steps=300,
        sample_shape=(50,),
        generator=generator(5),
    )
    assert drawn.states.isfinite().all()
    assert drawn.inputs.isfinite().all()
    assert drawn.states.abs().max() > 1e20


def test_a_seed_gives_the_same_draws_and_mistakes_are_named():
    arguments = ([-2.0, -3.0], [1.0], [0.0, 0.0], [1.0, 1.0], 2.0)
    same = [
        simulate_hgf(*arguments, num_steps=4, generator=generator(6)).inputs
        for _ in range(2)
    ]
    assert torch.equal(*same)
    assert same[0].dtype == D
    with pytest.raises(HGFDomainError, match="pi0"):
        simulate_hgf([-2.0], None, [0.0], [-1.0], 2.0, num_steps=4)
    with pytest.raises(HGFShapeError, match="levels"):
        simulate_hgf([-2.0, -2.0], [1.0], [0.0] * 3, [1.0] * 2, 2.0, num_steps=4)
    with pytest.raises(ConfigurationError, match="num_steps"):
        simulate_hgf(*arguments)
    with pytest.raises(ConfigurationError, match="num_steps"):
        simulate_hgf(*arguments, num_steps=4, time_step=torch.ones(3, dtype=D))
