"""A transition: reversible, volume-preserving, second order, safe with NaN."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.infer.mcmc.hmc.metric import accelerate, colour, diagonal_as
from pyro_geo.infer.mcmc.hmc.transition import (
    Chains,
    Flight,
    Stepper,
    advance,
    chains_at,
)
from pyro_geo.ops.derivatives import value_and_grad
from pyro_geo.testing.hmc import FixedHMCState, leapfrog_transition
from tests.cases import numbers
from tests.infer.mcmc.hmc.test_metric import KINDS, example

DIM, YES, NO = 3, torch.tensor(True), torch.tensor(False)


def potential(q):
    """Bent and not symmetric, so that nothing cancels; `(chains, dim)`."""
    curl = (q[..., 1] - 0.3 * q[..., 0].square()).square()
    return 0.5 * q.square().sum(-1) + curl + 0.1 * q[..., 2].pow(4) + q[..., 0].sin()


def at(q):
    value, grad = value_and_grad(potential, q)
    return Chains(q, value, grad)


def fly(metric, q, v, steps, h, density=potential):
    """Follow trajectories from positions and velocities, without an end."""
    value, grad = value_and_grad(density, q)
    start = Flight(q, v, value, grad, value, value)
    size = torch.full_like(value, h)
    chains = Chains(q, value, grad)
    _, flight = advance(
        density, metric, chains, start, v, value, size, torch.ones(steps), NO, NO
    )
    return flight


@pytest.mark.parametrize("kind", KINDS)
def test_trajectories_can_be_followed_back(kind):
    metric, _ = example(kind, DIM)
    q, v = numbers(4, DIM), colour(metric, numbers(4, DIM, seed=1))
    there = fly(metric, q, v, 15, 0.2)
    assert float((there.q - q).abs().max()) > 0.5
    back = fly(metric, there.q, -there.velocity, 15, 0.2)
    torch.testing.assert_close(back.q, q, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back.velocity, -v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_trajectories_keep_volume(kind):
    metric, _ = example(kind, DIM)
    z = torch.cat([numbers(1, DIM), colour(metric, numbers(1, DIM, seed=1))], 1)
    delta = 1e-5 * torch.eye(2 * DIM, dtype=torch.float64)
    rows = torch.cat([z + delta, z - delta])
    end = fly(metric, rows[:, :DIM], rows[:, DIM:], 7, 0.3)
    ends = torch.cat([end.q, end.velocity], 1)
    jacobian = (ends[: 2 * DIM] - ends[2 * DIM :]) / 2e-5
    assert float((jacobian - delta / 1e-5).abs().max()) > 0.1
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_form_is_the_momentum_form(kind):
    """`v = covariance p`: the same path as by momenta, written out."""
    metric, covariance = example(kind, DIM)
    q, v, h = numbers(4, DIM), colour(metric, numbers(4, DIM, seed=1)), 0.1
    p, x = v @ torch.linalg.inv(covariance), q
    for _ in range(5):
        p = p - 0.5 * h * value_and_grad(potential, x)[1]
        x = x + h * p @ covariance
        p = p - 0.5 * h * value_and_grad(potential, x)[1]
    found = fly(metric, q, v, 5, h)
    torch.testing.assert_close(found.q, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.velocity, p @ covariance, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.grad, value_and_grad(potential, x)[1])


def test_the_energy_error_is_of_second_order():
    metric, _ = example("dense", DIM)
    q, momentum = numbers(20, DIM), numbers(20, DIM, seed=1)
    chains = at(q)
    blank = Flight(q, q, *chains[1:], chains.potential, chains.potential)
    errors = []
    for steps in (50, 100, 200):
        size = torch.full_like(chains.potential, 1.0 / steps)
        _, flight = advance(
            potential,
            metric,
            chains,
            blank,
            momentum,
            torch.zeros(20).double(),
            size,
            torch.ones(steps),
            YES,
            YES,
        )
        errors.append(float(flight.error.norm()))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        # the next term of the expansion is a factor step ** 2 smaller
        assert abs(coarse / fine - 4) < 0.1
    assert errors[-1] > 0


def test_one_transition_is_the_textbook_one():
    """On the identity, with the same noise, the reference gives the same."""
    metric = diagonal_as("diagonal", torch.ones(DIM, dtype=torch.float64), 1)
    target = Target.from_potential(potential, DIM, dtype=torch.float64)
    q, momentum = 2 * numbers(32, DIM), numbers(32, DIM, seed=1)
    uniform = torch.linspace(0.01, 0.99, 32, dtype=torch.float64)
    h = torch.tensor(0.45, dtype=torch.float64)
    chains = chains_at(target, q)
    step = Stepper(target.with_rung("traced"), chains, metric, 1)
    found, flight = step(metric, chains, momentum, uniform, h.expand(32).clone(), 6)
    state, info = leapfrog_transition(
        potential, FixedHMCState(*at(q)), momentum, uniform, h, 6
    )
    moved = (state.q != q).any(-1)
    assert 0 < int(moved.sum()) < 32  # some accepted, some not
    torch.testing.assert_close(found.q, state.q)
    torch.testing.assert_close(found.potential, state.potential)
    torch.testing.assert_close(found.grad, state.grad)
    torch.testing.assert_close(flight.error, info.energy_error)
    torch.testing.assert_close(flight.energy, info.energy)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_in_one_graph_change_nothing(kind):
    metric, _ = example(kind, DIM)
    target = Target.from_potential(potential, DIM, dtype=torch.float64)
    target = target.with_rung("traced")
    chains = chains_at(target, numbers(6, DIM))
    uniform = torch.full((6,), 0.3, dtype=torch.float64)
    size = torch.linspace(0.05, 0.3, 6, dtype=torch.float64)  # each its own
    one, four = (Stepper(target, chains, metric, unroll) for unroll in (1, 4))
    for num_steps in (1, 2, 3, 4, 5, 9):  # also what is no multiple of four
        momentum = numbers(6, DIM, seed=num_steps)
        results = [
            step(metric, chains, momentum, uniform, size, num_steps)
            for step in (one, four)
        ]
        for found, expected in zip(results[1], results[0], strict=True):
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_chain_that_meets_nan_stays_and_no_other_notices():
    def broken(q):
        return torch.where(q[..., 0] > 6, torch.nan, potential(q))

    metric = diagonal_as("diagonal", torch.ones(DIM, dtype=torch.float64), 1)
    q, momentum = numbers(5, DIM), numbers(5, DIM, seed=1)
    q[2] = torch.tensor([5.5, 0.0, 0.0])
    momentum[2] = torch.tensor([20.0, 0.0, 0.0])
    uniform = torch.full((5,), 1e-9, dtype=torch.float64)
    size = torch.full((5,), 0.1, dtype=torch.float64)
    results = []
    for density in (potential, broken):
        chains = at(q)
        blank = Flight(q, q, *chains[1:], chains.potential, chains.potential)
        results.append(
            advance(
                density,
                metric,
                chains,
                blank,
                momentum,
                uniform,
                size,
                torch.ones(3),
                YES,
                YES,
            )
        )
    (sound, _), (found, flight) = results
    assert torch.equal(found.q[2], q[2])
    assert torch.equal(found.grad[2], at(q).grad[2])
    assert float(flight.error[2]) == torch.inf
    others = torch.arange(5) != 2
    for a, b in zip(found, sound, strict=True):
        assert torch.equal(a[others], b[others])
    assert not torch.equal(found.q[others], q[others])


def test_a_step_left_out_leaves_the_rest_alone():
    metric, _ = example("low_rank", DIM)
    q, v = numbers(4, DIM), numbers(4, DIM, seed=1)
    value, grad = value_and_grad(potential, q)
    start = Flight(q, v, value, grad, value, value)
    size = torch.full_like(value, 0.1)
    ends = [
        advance(potential, metric, at(q), start, v, value, size, active, NO, NO)[1]
        for active in (torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.ones(2))
    ]
    for a, b in zip(ends[0], ends[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert accelerate(metric, grad).shape == q.shape
