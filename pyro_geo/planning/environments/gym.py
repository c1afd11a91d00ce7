"""Plants as Gymnasium environments, one run at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.errors import MissingExtraError
from pyro_geo.ops.random import private_randomness
from pyro_geo.planning.boolean_network import NetworkControl, melanoma
from pyro_geo.planning.environments.boolean import BooleanPlant
from pyro_geo.planning.environments.linear_quadratic import (
    LinearQuadratic,
    unknown_sign,
)
from pyro_geo.planning.environments.pendulum import Pendulum
from pyro_geo.planning.environments.plant import Plant

try:  # the classes below are made of it
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise MissingExtraError(
        "Gymnasium is not installed",
        where="environments",
        found="no module gymnasium",
        expected="the extra 'control'",
        todo="pip install 'pyro_geo[control]'; the plants do without it.",
    ) from error

__all__ = [
    "BooleanNetworkEnv",
    "LinearQuadraticEnv",
    "PendulumEnv",
    "PlantEnv",
    "UnknownSignEnv",
]

_BIG = float(np.finfo(np.float32).max)


class PlantEnv(gymnasium.Env):
    """One run of a plant with fixed parameters.

    No state is terminal: a run is truncated after `max_steps`. `reset` takes the
    options `state`, the first state, and `theta`, other parameters from then on.

    Args:
        plant: the dynamics and the reward.
        theta: its parameters, `(P,)`. Left out: those that it was made with.
        max_steps: steps of a run.

    Example:
        >>> env = PlantEnv(Pendulum())
        >>> observation, _ = env.reset(seed=0)
        >>> observation.shape
        (3,)
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, plant: Plant, theta: Tensor | None = None, *, max_steps: int = 200
    ) -> None:
        check_count("max_steps", max_steps)
        self.plant, self.max_steps = plant, max_steps
        self.theta = self._checked(plant.theta if theta is None else theta)
        self.observation_space = self._observations()
        if plant.actions is not None:
            self.action_space = spaces.Discrete(len(plant.actions))
        else:
            size = (plant.action_dim,)
            self.action_space = spaces.Box(-plant.limit, plant.limit, size, np.float32)
        self._state = torch.zeros(plant.state_dim, dtype=torch.float64)
        self._generator = torch.Generator()
        self._count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a run.

        Args:
            seed: of this run and the next ones.
            options: `state` and `theta`, each optional.

        Returns:
            The first observation, and a record with the state.
        """
        super().reset(seed=seed)
        self._generator.manual_seed(int(self.np_random.integers(2**31)))
        options = options or {}
        unknown = sorted(set(options) - {"state", "theta"})
        check(not unknown, "options", unknown, "state or theta")
        if "theta" in options:
            self.theta = self._checked(torch.as_tensor(options["theta"]))
        state = options.get("state")
        if state is None:
            state = self.plant.initial((), self._generator)
        state = torch.as_tensor(state).double()
        check_shape("state", state.shape, (self.plant.state_dim,))
        self._state, self._count = state, 0
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make a step.

        Args:
            action: an element of the action space.

        Returns:
            Observation, reward, whether the run has terminated (never), whether it is
            truncated, and a record with the state.
        """
        plant = self.plant
        if plant.actions is not None:
            a = plant.actions[int(action)]
        else:
            a = torch.as_tensor(np.asarray(action)).clamp(-plant.limit, plant.limit)
        a = a.double() if a.is_floating_point() else a
        noise = plant.draw_noise((), self._generator).double()
        state = plant.simulate(self.theta, self._state, a, noise)
        reward = float(plant.reward(self._state, a, state))
        self._state, self._count = state, self._count + 1
        over = self._count >= self.max_steps
        return self._observe(), reward, False, over, self._info()

    def _checked(self, theta: Tensor) -> Tensor:
        check_shape("theta", theta.shape, (len(self.plant.parameters),))
        return theta.double()

    def _observations(self) -> spaces.Space[Any]:
        return spaces.Box(-_BIG, _BIG, (self.plant.state_dim,), np.float32)

    def _observe(self) -> np.ndarray:
        return self._state.numpy().astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"state": self._state.numpy().copy()}


class LinearQuadraticEnv(PlantEnv):
    """A linear plant with quadratic costs.

    Args:
        plant: the plant. Left out: a mass that a force pushes.
        theta: its unknown coefficients, `(P,)`.
        max_steps: steps of a run.

    Example:
        >>> env = LinearQuadraticEnv()
        >>> _ = env.reset(options={"state": [1.0, 0.0]})
        >>> env.step(np.array([-6.6]))[0]
        array([ 1.  , -0.66], dtype=float32)
    """

    def __init__(
        self,
        plant: LinearQuadratic | None = None,
        theta: Tensor | None = None,
        *,
        max_steps: int = 200,
    ) -> None:
        plant = LinearQuadratic.double_integrator() if plant is None else plant
        super().__init__(plant, theta, max_steps=max_steps)


class UnknownSignEnv(PlantEnv):
    """The scalar plant whose actions may push either way.

    Args:
        theta: the coefficients of the state and of the action, `(2,)`.
        noise: standard deviation of the noise.
        max_steps: steps of a run.

    Example:
        >>> UnknownSignEnv(torch.tensor([0.9, 1.1])).action_space
        Discrete(9)
    """

    def __init__(
        self, theta: Tensor | None = None, *, noise: float = 0.1, max_steps: int = 30
    ) -> None:
        super().__init__(unknown_sign(noise), theta, max_steps=max_steps)


class PendulumEnv(PlantEnv):
    """The swing-up of a pendulum of unknown mass and length.

    Args:
        theta: mass and length, `(2,)`.
        noise: standard deviation of the noise of the speed.
        max_steps: steps of a run.

    Example:
        >>> PendulumEnv(torch.tensor([1.2, 0.8])).observation_space.shape
        (3,)
    """

    def __init__(
        self, theta: Tensor | None = None, *, noise: float = 0.0, max_steps: int = 200
    ) -> None:
        super().__init__(Pendulum(noise=noise), theta, max_steps=max_steps)

    def _observations(self) -> spaces.Space[Any]:
        assert isinstance(self.plant, Pendulum)
        high = np.array([1.0, 1.0, self.plant.max_speed], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)


class BooleanNetworkEnv(PlantEnv):
    """A Boolean network under control, its states seen or measured with noise.

    The record of a step has the state under the key `state`, whatever is observed.

    Args:
        problem: the network, its actions, costs and measurements. Left out: melanoma.
        theta: values of its unknown rule entries, `(k,)`. Left out: the published ones.
        max_steps: steps of a run.

    Example:
        >>> env = BooleanNetworkEnv()
        >>> env.observation_space, env.action_space
        (MultiBinary(10), Discrete(3))
    """

    def __init__(
        self,
        problem: NetworkControl | None = None,
        theta: Tensor | None = None,
        *,
        max_steps: int = 200,
    ) -> None:
        self.problem = melanoma() if problem is None else problem
        super().__init__(BooleanPlant(self.problem), theta, max_steps=max_steps)

    def _observations(self) -> spaces.Space[Any]:
        channel, count = self.problem.channel, self.problem.network.num_genes
        if channel is None or channel.off.support is constraints.boolean:
            return spaces.MultiBinary(count)
        return spaces.Box(-_BIG, _BIG, (count,), np.float32)

    def _observe(self) -> np.ndarray:
        channel, y = self.problem.channel, self._state
        if channel is not None:
            seed = torch.randint(2**31, (), generator=self._generator)
            with private_randomness(int(seed)), torch.no_grad():
                y = channel.sample(self._state)
        return y.numpy().astype(self.observation_space.dtype)
