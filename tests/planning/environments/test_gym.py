"""Environments pass Gymnasium's checker and are single runs of their plants."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.planning.boolean_network import Channel, melanoma

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from pyro_geo.planning.environments import (  # noqa: E402
    BooleanNetworkEnv,
    LinearQuadraticEnv,
    PendulumEnv,
    UnknownSignEnv,
)

MAKERS = {
    "mass": LinearQuadraticEnv,
    "sign": lambda: UnknownSignEnv(torch.tensor([0.9, 1.1])),
    "pendulum": lambda: PendulumEnv(torch.tensor([1.2, 0.8]), noise=0.1),
    "network": BooleanNetworkEnv,
    "noisy network": lambda: BooleanNetworkEnv(
        melanoma(channel=Channel.bernoulli(0.1))
    ),
    "expression": lambda: BooleanNetworkEnv(
        melanoma(unknown=[("RET1", 3)], channel=Channel.normal(0.0, 1.0, 2.0, 1.0)),
        torch.tensor([0.0]),
    ),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_gymnasiums_checker_passes(name):
    with warnings.catch_warnings():
        # advice on action spaces for neural networks
        warnings.filterwarnings("ignore", ".*recommend.*symmetric and normalized.*")
        check_env(MAKERS[name](), skip_render_check=True)


@pytest.mark.parametrize("name", list(MAKERS))
def test_runs_end_by_truncation_and_repeat_from_the_seed(name):
    def run(seed):
        env = MAKERS[name]()
        env.max_steps = 4
        env.action_space.seed(3)
        seen = [env.reset(seed=seed)[0]]
        for step in range(4):
            y, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert not terminated
            assert truncated == (step == 3)
            seen.append(np.append(y, [reward, *info["state"]]))
        return np.concatenate(seen)

    before = torch.random.get_rng_state()
    first = run(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first, run(1))
    assert not np.array_equal(first, run(2))


def test_a_step_is_that_of_the_plant():
    theta = torch.tensor([1.2, 0.8])
    env = PendulumEnv(theta)
    env.reset(seed=0, options={"state": [0.0, 1.0, -2.0]})
    y, reward, *_, info = env.step(np.array([5.0], np.float32))  # beyond the limit
    s = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    a = torch.tensor([2.0], dtype=torch.float64)
    after = env.plant.simulate(theta.double(), s, a, torch.zeros(1).double())
    np.testing.assert_allclose(info["state"], after)
    np.testing.assert_allclose(y, after.float())
    assert abs(reward - float(env.plant.reward(s, a, after))) < 1e-12


def test_parameters_are_set_at_a_reset_and_actions_are_looked_up():
    env = UnknownSignEnv(noise=0.0)
    env.reset(seed=0, options={"state": [1.0], "theta": [0.5, 2.0]})
    y, reward, *_ = env.step(0)  # the action -2
    np.testing.assert_allclose(y, [0.5 - 4.0])
    assert abs(reward + 1.0 + 0.4) < 1e-6


def test_measurements_are_those_of_the_hidden_state():
    env = BooleanNetworkEnv(melanoma(channel=Channel.bernoulli(0.1)))
    env.reset(seed=0)
    wrong = [
        y != info["state"]
        for _ in range(150)
        for y, _, _, _, info in [env.step(env.action_space.sample())]
    ]
    assert abs(np.mean(wrong) - 0.1) < 5 * np.sqrt(0.09 / 1500)


def test_mistakes_are_named():
    with pytest.raises(ShapeError, match="theta"):
        PendulumEnv(torch.ones(3))
    with pytest.raises(ConfigurationError, match="max_steps"):
        PendulumEnv(max_steps=0)
    env = PendulumEnv()
    with pytest.raises(ConfigurationError, match="options.*speed"):
        env.reset(options={"speed": 1.0})
    with pytest.raises(ShapeError, match="state"):
        env.reset(options={"state": [1.0]})


def test_without_gymnasium_the_plants_are_there_and_the_extra_is_named():
    code = """
import sys
sys.modules["gymnasium"] = None
from pyro_geo.planning.environments import Pendulum
print(Pendulum().parameters)
try:
    from pyro_geo.planning.environments import PendulumEnv
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "('mass', 'length')"
    assert "MissingExtraError" in second
    assert "pyro_geo[control]" in second
