"""Systems whose values are known by other means than temporal differences."""

import numpy as np

from pyro_geo.gp import Transitions

Array = np.ndarray
GAMMA = 0.9
STEPS = 50  # of an episode, which is then cut off
NOISE = 0.5  # deviation of a reward


class Pendulum:
    """A damped pendulum, seen with noisy rewards that vary fast with its state.

    It moves without noise, so that the value of a state is a sum along one path.
    """

    time_step = 0.1

    def step(self, state: Array) -> Array:
        """Move states, `(..., 2)`: angle and speed."""
        angle, speed = state[..., 0], state[..., 1]
        pull = -0.4 * speed - 2.0 * np.sin(angle)
        speed = speed + self.time_step * pull
        return np.stack([angle + self.time_step * speed, speed], -1)

    def reward(self, state: Array) -> Array:
        """Expected reward of states."""
        angle, speed = state[..., 0], state[..., 1]
        return np.cos(4 * angle) * np.sin(3 * speed) - 0.5 * speed**2

    def path(self, episodes: int, rng: np.random.Generator) -> Array:
        """Play episodes from random starts, `(episodes, steps + 1, 2)`."""
        states = [rng.uniform(-1.5, 1.5, (episodes, 2))]
        for _ in range(STEPS):
            states.append(self.step(states[-1]))
        return np.stack(states, 1)

    def transitions(self, count: int, rng: np.random.Generator) -> Transitions:
        """Record so many steps."""
        path = self.path(-(-count // STEPS), rng)
        reward = self.reward(path[:, :-1])
        reward = reward + NOISE * rng.normal(size=reward.shape)
        label = np.repeat(np.arange(len(path)), STEPS)
        x, x_next = path[:, :-1].reshape(-1, 2), path[:, 1:].reshape(-1, 2)
        steps = Transitions(x, x_next, reward.reshape(-1), GAMMA, episode=label)
        return steps[:count]

    def held_out(self, count: int, rng: np.random.Generator) -> Array:
        """Take states as they are visited, of episodes that nobody learns from."""
        states = self.path(-(-count // STEPS), rng)[:, :-1].reshape(-1, 2)
        return states[:count]

    def value(self, state: Array) -> Array:
        """Sum the rewards along the path of each state, to the last digit."""
        total, factor = np.zeros(state.shape[:-1]), 1.0
        while factor > 1e-17:
            total = total + factor * self.reward(state)
            state, factor = self.step(state), GAMMA * factor
        return total


class Drift:
    """A noisy linear system with a quadratic cost; its value is a parabola."""

    pull, spread = 0.8, 0.5

    def transitions(
        self, count: int, rng: np.random.Generator, nodes: int = 0
    ) -> Transitions:
        """Record one long path, or give expected successors at so many nodes."""
        x = np.zeros(count + 1)
        for t in range(count):
            x[t + 1] = self.pull * x[t] + self.spread * rng.normal()
        reward = -(x[:-1] ** 2)
        if not nodes:
            return Transitions(x[:-1, None], x[1:, None], reward, GAMMA)
        roots, weight = np.polynomial.hermite_e.hermegauss(nodes)
        after = self.pull * x[:-1, None] + self.spread * roots
        weight = np.tile(weight / weight.sum(), (count, 1))
        return Transitions(x[:-1, None], after[..., None], reward, GAMMA, weight)

    def held_out(self, count: int, rng: np.random.Generator) -> Array:
        """Draw states from where the path is in the long run."""
        scale = self.spread / (1 - self.pull**2) ** 0.5
        return scale * rng.normal(size=(count, 1))

    def value(self, state: Array) -> Array:
        """Solve for the parabola."""
        p = 1 / (1 - GAMMA * self.pull**2)
        return -p * (state[..., 0] ** 2 + GAMMA * self.spread**2 / (1 - GAMMA))
