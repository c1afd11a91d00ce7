"""Action values learned while acting in a simulator, as GP-SARSA does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.gp import Transitions
from pyro_geo.ops.random import substream
from pyro_geo.planning.backends import Learned
from pyro_geo.planning.gptd_values import GPTDValues, StateSampler, variances

if TYPE_CHECKING:
    from pyro_geo.gp import ExactGPTD

__all__ = ["Explore", "GPSarsa"]

Explore = Literal["epsilon", "softmax", "active", "thompson", "ucb"]


class GPSarsa(GPTDValues):
    r"""Learn the values of the policy that is followed, episode by episode.

    The process is conditioned again after each episode, and the next one is played by
    an exploring rule on its mean and variance. All draws of a group play side by side.
    Where the simulator is known,
    :class:`~pyro_geo.planning.GPTDPolicyIteration` needs fewer steps; no exploring rule
    wins everywhere.

    Args:
        num_episodes: episodes of each draw; the actions of the first are random.
        episode_steps: steps of an episode, which is then truncated.
        explore: `"epsilon"` (a random action with a probability that falls from .5 to
            .05), `"softmax"`, `"active"` (with that probability the action of largest
            variance), `"thompson"` (the best of a draw of the values) or `"ucb"`.
        temperature: of `"softmax"`, in standard deviations of the rewards.
        width: of `"ucb"`, in standard deviations.
        relink: whether old steps are given the action that is best now as their next
            one, in place of the one that was taken.
        noise: of rewards or of returns, see :class:`~pyro_geo.gp.TDLikelihood`.
        discount: of the rewards, below 1.
        num_actions: levels of each number of an action, where the plant lists none.
        states: draws first states of episodes; those of the plant when left out.
        fit_steps: iterations of a search for hyperparameters.

    References:
        Engel, Mannor and Meir (2005), Reinforcement learning with Gaussian processes.
        Relinking is derived.

    Example:
        >>> from pyro_geo.planning.environments import unknown_sign
        >>> backend = GPSarsa(num_episodes=3, episode_steps=10, fit_steps=5)
        >>> backend = backend.bound(unknown_sign())
        >>> learned = backend.learn(torch.tensor([[0.9, 0.7]]).double(), [0])
        >>> backend.q(learned.tensors, torch.tensor([[1.0]]))[0].shape
        torch.Size([1, 1, 9])
    """

    def __init__(
        self,
        *,
        num_episodes: int = 10,
        episode_steps: int = 20,
        explore: Explore = "epsilon",
        temperature: float = 0.1,
        width: float = 1.0,
        relink: bool = True,
        noise: Literal["reward", "return"] = "reward",
        discount: float = 0.95,
        num_actions: int = 9,
        states: StateSampler | None = None,
        fit_steps: int = 15,
    ) -> None:
        super().__init__(
            discount=discount,
            num_actions=num_actions,
            states=states,
            fit_steps=fit_steps,
        )
        check_count("num_episodes", num_episodes)
        check_count("episode_steps", episode_steps, 2)
        check_choice("explore", explore, get_args(Explore))
        check_number("temperature", temperature, strict=True)
        check_number("width", width)
        check_choice("noise", noise, ("reward", "return"))
        chain = not (relink and noise == "return")
        check(chain, "relink", relink, "False with noise='return', which needs a path")
        self.num_episodes, self.episode_steps = num_episodes, episode_steps
        self.explore: Explore = explore
        self.temperature, self.width, self.relink = temperature, width, relink
        self.noise: Literal["reward", "return"] = noise

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Play episodes under some draws and learn from them.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: of the randomness of each draw.

        Returns:
            Transitions and hyperparameters; as a diagnostic the discounted return of
            the last episode.
        """
        theta = theta.double()
        model: ExactGPTD | None = None
        played: list[tuple[Tensor, ...]] = []
        for episode in range(self.num_episodes):
            own = [substream(seed, episode) for seed in seeds]
            played.append(self._play(model, theta, own, episode))
            s, a, s_next, a_next, reward = (
                torch.cat(parts, 1) for parts in zip(*played, strict=True)
            )
            if self.relink and model is not None:
                a_next = self._mean(model, s_next).argmax(-1)
            label = torch.arange(len(played)).repeat_interleave(self.episode_steps)
            steps = Transitions(
                self._join(s, self.grid[a]),
                self._join(s_next, self.grid[a_next]),
                reward,
                self.discount,
                None,
                label,
            )
            model = self._fitted(steps, model, self.fit_steps)
        assert model is not None
        gain = self.discount ** torch.arange(self.episode_steps).double()
        last = (gain * played[-1][-1]).sum(-1)
        return Learned(self._kept(model), {"last_return": last})

    def outlined(self) -> GPSarsa:
        """Make a backend that keeps its hyperparameters.

        Returns:
            The backend.
        """
        new = copy.copy(self)
        new.fit_steps = 0
        return new

    def _play(
        self, model: ExactGPTD | None, theta: Tensor, seeds: list[int], episode: int
    ) -> tuple[Tensor, ...]:
        """One episode of each draw: states, actions, successors and rewards."""
        plant, count = self.simulator, self.episode_steps
        s = self._draw_states([substream(x, 1) for x in seeds], 1)[:, 0]
        noise = self._draw_noise([substream(x, 2) for x in seeds], (count,))
        uniform = torch.stack(
            [
                torch.rand(
                    count + 1,
                    2 + len(self.grid),
                    generator=torch.Generator().manual_seed(substream(x, 3)),
                    dtype=torch.float64,
                )
                for x in seeds
            ]
        )
        states, actions, rewards = [s], [], []
        for step in range(count + 1):  # the last state needs an action too
            a = self._act(model, states[-1], uniform[:, step], episode)
            actions.append(a)
            if step == count:
                break
            chosen = self.grid[a]
            ahead = plant.simulate(theta, states[-1], chosen, noise[:, step])
            rewards.append(plant.reward(states[-1], chosen, ahead).double())
            states.append(ahead)
        s, a = torch.stack(states, 1), torch.stack(actions, 1)
        return s[:, :-1], a[:, :-1], s[:, 1:], a[:, 1:], torch.stack(rewards, 1)

    def _act(
        self, model: ExactGPTD | None, s: Tensor, uniform: Tensor, episode: int
    ) -> Tensor:
        """Numbers of actions, `(B,)`, by the exploring rule."""
        size = len(self.grid)
        random = (uniform[:, 1] * size).long().clamp(max=size - 1)
        if model is None:
            return random
        with torch.no_grad():
            found = model.value(self._nodes(s[:, None]))
        mean, sd = found.mean, variances(found).sqrt()
        best = mean.argmax(-1)
        done = episode / max(self.num_episodes - 1, 1)
        rare = uniform[:, 0] < 0.5 + done * (0.05 - 0.5)
        if self.explore == "epsilon":
            return torch.where(rare, random, best)
        if self.explore == "active":
            return torch.where(rare, sd.argmax(-1), best)
        if self.explore == "ucb":
            return (mean + self.width * sd).argmax(-1)
        inner = uniform[:, 2:].clamp(1e-12, 1 - 1e-12)
        if self.explore == "softmax":
            # the largest of values with Gumbel noise is a draw of the softmax
            unit = model.transitions.reward.std(-1, keepdim=True).clamp_min(1e-12)
            return (mean / (self.temperature * unit) - (-inner.log()).log()).argmax(-1)
        covariance = found.covariance_matrix
        jitter = 1e-8 * covariance.diagonal(dim1=-2, dim2=-1).amax(-1)
        eye = torch.eye(size, dtype=torch.float64)
        lower, _ = torch.linalg.cholesky_ex(covariance + jitter[:, None, None] * eye)
        normal = torch.special.ndtri(inner)
        return (mean + (lower @ normal[..., None])[..., 0]).argmax(-1)
