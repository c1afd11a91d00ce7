"""Plants against scipy, Gymnasium's pendulum and networks, and their gradients."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.planning.boolean_network import NetworkControl, melanoma
from pyro_geo.planning.environments import (
    BooleanPlant,
    LinearQuadratic,
    Pendulum,
    unknown_sign,
)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


def plants():
    unknown = [("RET1", 3), ("S100P", 0)]
    return {
        "mass": LinearQuadratic.double_integrator(noise=0.1),
        "sign": unknown_sign(),
        "pendulum": Pendulum(noise=0.05),
        "network": BooleanPlant(melanoma(unknown=unknown)),
    }


@pytest.mark.parametrize("name", ["mass", "sign", "pendulum", "network"])
def test_draws_states_actions_and_noise_broadcast(name, generator):
    plant = plants()[name]
    theta = plant.theta + torch.zeros(5, 1, 1, len(plant.parameters))
    if name == "network":
        theta = (torch.rand(theta.shape) < 0.5).double()
    else:
        theta = theta * (1 + 0.1 * torch.rand(theta.shape))
    s = plant.initial((4, 1), generator)
    noise = plant.draw_noise((4, 3), generator)
    if plant.actions is not None:
        a = plant.actions[:3]
    else:
        a = plant.limit * torch.rand(3, plant.action_dim)
    found = plant.simulate(theta, s, a, noise)
    assert found.shape == (5, 4, 3, plant.state_dim)
    rewards = plant.reward(s, a, found)
    assert rewards.shape[-2:] == (4, 3)
    one = plant.simulate(theta[2, 0, 0], s[1, 0], a[2], noise[1, 2])
    torch.testing.assert_close(found[2, 1, 2], one)
    again = plant.reward(s[1, 0], a[2], one)
    full = rewards.expand(5, 4, 3)
    torch.testing.assert_close(full[2, 1, 2], again)


@pytest.mark.parametrize("name", ["mass", "sign", "pendulum"])
def test_smooth_plants_are_differentiable(name, generator):
    plant = plants()[name]
    inputs = (
        plant.theta.clone(),
        plant.initial((3,), generator),
        0.3 * torch.rand(3, plant.action_dim),
        plant.draw_noise((3,), generator),
    )
    inputs = tuple(x.requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(plant.simulate, inputs)
    s, a = inputs[1], inputs[2]
    assert torch.autograd.gradcheck(lambda s, a: plant.reward(s, a, s), (s, a))


def test_the_optimal_gain_is_the_published_one_and_scipys():
    plant = LinearQuadratic.double_integrator()
    gain, P = plant.optimal(discount=0.95)
    expected = torch.tensor([[6.60149, 4.54141]])
    torch.testing.assert_close(gain, expected, rtol=0, atol=5e-6)
    rng = np.random.default_rng(0)
    theta = plant.theta + 0.2 * torch.tensor(rng.normal(size=(6, 2)))
    gains, Ps = plant.optimal(theta, discount=0.9)
    for row, k, p in zip(theta, gains, Ps, strict=True):
        A, B = (0.9**0.5 * x.numpy() for x in plant.matrices(row))
        want = solve_discrete_are(
            A, B, plant.state_cost.numpy(), plant.action_cost.numpy()
        )
        np.testing.assert_allclose(p, want, rtol=1e-9, atol=1e-9)
        R = plant.action_cost.numpy() + B.T @ want @ B
        np.testing.assert_allclose(k, np.linalg.solve(R, B.T @ want @ A), atol=1e-8)


def test_the_value_of_the_optimal_control_is_its_discounted_reward():
    plant = LinearQuadratic.double_integrator()
    gain, P = plant.optimal(discount=0.95)
    s, total = torch.tensor([1.0, -0.5]), torch.zeros(())
    start = s
    for t in range(800):
        a = -(gain @ s)
        after = plant.simulate(plant.theta, s, a, torch.zeros(1))
        total = total + 0.95**t * plant.reward(s, a, after)
        s = after
    torch.testing.assert_close(total, -(start @ P @ start), rtol=1e-10, atol=0)


def test_unknown_coefficients_stand_where_they_are_named():
    A, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0], [6.0]])
    plant = LinearQuadratic(
        A,
        B,
        state_cost=torch.eye(2),
        action_cost=torch.eye(1),
        unknown=[(1, 2), (0, 1)],
    )
    assert plant.parameters == ("B[1,0]", "A[0,1]")
    assert plant.theta.tolist() == [6.0, 2.0]
    a, b = plant.matrices(torch.tensor([[-1.0, -2.0]]))
    assert a[0].tolist() == [[1.0, -2.0], [3.0, 4.0]]
    assert b[0].tolist() == [[5.0], [-1.0]]


def test_noise_has_the_covariance_it_is_given(generator):
    C = torch.tensor([[0.5, 0.0], [0.2, 0.1]])
    plant = LinearQuadratic(
        torch.zeros(2, 2), torch.zeros(2, 1), state_cost=torch.eye(2),
        action_cost=torch.eye(1), noise=C,
    )  # fmt: skip
    noise = plant.draw_noise((20_000,), generator)
    s = plant.simulate(plant.theta, torch.zeros(2), torch.zeros(1), noise)
    torch.testing.assert_close(s.T.cov(), C @ C.T, rtol=0.05, atol=5e-3)


def test_the_pendulum_is_gymnasiums():
    pendulum = pytest.importorskip("gymnasium.envs.classic_control.pendulum")
    plant = Pendulum()
    other = pendulum.PendulumEnv()
    rng = np.random.default_rng(0)
    for _ in range(20):
        angle, speed = rng.uniform(-3.1, 3.1), rng.uniform(-8, 8)
        torque = rng.uniform(-3, 3, 1)
        other.state, other.last_u = np.array([angle, speed]), None
        s = torch.tensor([np.cos(angle), np.sin(angle), speed])
        _, reward, *_ = other.step(torque)
        a = torch.tensor(torque)
        found = plant.simulate(plant.theta, s, a, torch.zeros(1))
        angle, speed = other.state
        expected = [np.cos(angle), np.sin(angle), speed]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(plant.reward(s, a, found), reward, rtol=1e-12)


def test_the_energy_of_a_free_pendulum_stays_for_any_mass_and_length():
    # the scheme is symplectic: its energy swings by the order of the step
    plant = Pendulum(step=0.002, max_speed=100.0)
    theta = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    s = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])

    def energy(s):
        mass, length = theta.unbind(-1)
        kinetic = mass * length**2 * s[:, 2] ** 2 / 6
        return kinetic + mass * 10.0 * length * s[:, 0] / 2

    first = energy(s)
    for _ in range(1000):
        s = plant.simulate(theta, s, torch.zeros(2, 1), torch.zeros(2, 1))
    assert ((energy(s) - first).abs() < 0.05).all()
    torch.testing.assert_close(s[:, :2].norm(dim=-1), torch.ones(2))


def test_a_network_follows_its_rules_flips_and_mutations():
    problem = melanoma(unknown=[("RET1", 3)], mutation=0.3)
    plant, network = BooleanPlant(problem), problem.network
    s = torch.randint(2, (50, 10)).double()
    a, noise = torch.randint(3, (50,)), torch.rand(50, 10)
    for theta in (torch.tensor([0.0]), torch.tensor([1.0])):
        found = plant.simulate(theta, s, a, noise)
        ahead = network.step(s.long(), theta)
        expected = ahead ^ problem.actions[a] ^ (noise < 0.3).long()
        assert torch.equal(found, expected.double())
        cost = 5.0 * found[:, 0] + (a > 0)
        torch.testing.assert_close(plant.reward(s, a, found), -cost)
    assert plant.parameters == ("RET1[3]",)
    assert isinstance(plant.problem, NetworkControl)


def test_mistakes_are_named():
    A, B, one = torch.eye(2), torch.ones(2, 1), torch.eye(1)

    def plant(A=A, B=B, action_cost=one, **options):
        return LinearQuadratic(
            A, B, state_cost=torch.eye(2), action_cost=action_cost, **options
        )

    with pytest.raises(ShapeError, match="argument A"):
        plant(A=torch.ones(2, 3))
    with pytest.raises(ShapeError, match="argument B"):
        plant(B=torch.ones(3, 1))
    with pytest.raises(ShapeError, match="action_cost"):
        plant(action_cost=A)
    with pytest.raises(ShapeError, match="noise"):
        plant(noise=torch.ones(3, 1))
    with pytest.raises(ConfigurationError, match="unknown"):
        plant(unknown=[(0, 3)])
    with pytest.raises(ShapeError, match="theta"):
        plant().matrices(torch.ones(2))
    with pytest.raises(ConfigurationError, match="mass"):
        Pendulum(mass=0.0)
    with pytest.raises(ConfigurationError, match="num_actions"):
        unknown_sign(num_actions=4)
