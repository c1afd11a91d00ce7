"""Action values by policy iteration on Gaussian processes, given a simulator."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.gp import Transitions
from pyro_geo.ops.random import substream
from pyro_geo.planning.backends import Learned
from pyro_geo.planning.gptd_values import (
    GPTDValues,
    StateSampler,
    has_quadrature,
    successor_noise,
)

if TYPE_CHECKING:
    from pyro_geo.gp import ExactGPTD

__all__ = ["GPTDPolicyIteration"]

_ALIKE = 0.05  # returns that differ by less, relatively, count as equal
_MOVES = 3  # random actions at most before a step is taken


class _Problem(NamedTuple):
    """Simulated steps of a group of draws."""

    theta: Tensor  # (B, P)
    x: Tensor  # (B, T, D)
    following: Tensor  # (B, T, J, n)
    weight: Tensor  # (B, T, J)
    reward: Tensor  # (B, T)


class GPTDPolicyIteration(GPTDValues):
    r"""Learn action values on simulated steps, and improve the policy in between.

    States and actions are spread over space, and successors are those of a quadrature
    of the noise, or of some draws of it, which stay the same. Each sweep conditions
    the process on

    .. math:: r(s, a) = Q(s, a) - \gamma \sum_j w_j\, Q(s'_j, \pi(s'_j)),

    and then makes :math:`\pi` greedy for its mean. The sweeps may oscillate. Of those
    whose greedy policy earns most on held-out states, within some percent, the one that
    solves Bellman's equation best on fresh steps is kept. All draws of a group are one
    batch.

    Args:
        num_steps: simulated steps `T` of each draw.
        successors: of each step, `J`. With one normal number of noise they are the
            nodes of Gauss-Hermite quadrature. Noise that does nothing needs one.
        max_sweeps: sweeps at most; they end when less than one next action in a
            hundred changes.
        held_out: states that policies are tried on.
        horizon: steps of a trial.
        **options: see :class:`~pyro_geo.planning.gptd_values.GPTDValues`.

    References:
        Engel, Mannor and Meir (2005), Reinforcement learning with Gaussian processes.
        Policy iteration over averaged successors is derived.

    Example:
        >>> from pyro_geo.planning.environments import unknown_sign
        >>> backend = GPTDPolicyIteration(num_steps=40, discount=0.9, fit_steps=5)
        >>> backend = backend.bound(unknown_sign())
        >>> learned = backend.learn(torch.tensor([[0.9, 0.7]]).double(), [0])
        >>> mean, variance = backend.q(learned.tensors, torch.tensor([[1.0]]))
        >>> mean.shape, bool(backend.grid[mean.argmax()] < 0)
        (torch.Size([1, 1, 9]), True)
    """

    def __init__(
        self,
        *,
        num_steps: int = 150,
        successors: int = 3,
        max_sweeps: int = 12,
        held_out: int = 8,
        horizon: int = 20,
        discount: float = 0.95,
        num_actions: int = 9,
        states: StateSampler | None = None,
        fit_steps: int = 20,
    ) -> None:
        super().__init__(
            discount=discount,
            num_actions=num_actions,
            states=states,
            fit_steps=fit_steps,
        )
        check_count("num_steps", num_steps, 2)
        for name, value in {
            "successors": successors,
            "max_sweeps": max_sweeps,
            "held_out": held_out,
            "horizon": horizon,
        }.items():
            check_count(name, value)
        self.num_steps, self.successors = num_steps, successors
        self.max_sweeps, self.held_out, self.horizon = max_sweeps, held_out, horizon

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Learn the values under some draws.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: of the randomness of each draw.

        Returns:
            Transitions and hyperparameters; as diagnostics the residual of Bellman's
            equation on fresh steps over the spread of the values, the share of next
            actions that the last sweep changed, the sweeps, and the held-out return.
        """
        theta = theta.double()
        problem = self._simulated(theta, seeds)
        count = len(theta)
        trial = self._trial(seeds)
        chosen = self._myopic(problem)
        model: ExactGPTD | None = None
        best = theta.new_full((count,), -torch.inf)
        return_kept, residual_kept, spread_kept = best, -best, -best
        kept: dict[str, Tensor] = {}
        changed = theta.new_ones(count)
        sweeps = 0
        for sweep in range(self.max_sweeps):
            # learned again once the policy is no longer the first guess
            fit = self.fit_steps if sweep in (0, 2) else 0
            model = self._fitted(self._steps(problem, chosen), model, fit)
            earned = self._greedy_return(model, theta, *trial)
            residual, spread = self._residual(model, theta, seeds)
            # of equals the one that solves Bellman's equation best: the values of an
            # early sweep may be those of a worse policy, whose greedy one is as good.
            # Not over the spread of the values, which is large where they explode
            best = torch.maximum(best, earned)
            least = best - _ALIKE * best.abs()
            better = (residual < residual_kept) | (return_kept < least)
            better &= earned >= least
            return_kept = torch.where(better, earned, return_kept)
            residual_kept = torch.where(better, residual, residual_kept)
            spread_kept = torch.where(better, spread, spread_kept)
            now = self._kept(model)
            kept = {
                k: torch.where(better.view(-1, *[1] * (v.dim() - 1)), v, kept.get(k, v))
                for k, v in now.items()
            }
            after = self._greedy(model, problem.following)
            changed = (after != chosen).double().flatten(1).mean(1)
            chosen, sweeps = after, sweep + 1
            if bool((changed < 0.01).all()):
                break
        diagnostics = {
            "bellman": residual_kept / spread_kept,
            "policy_change": changed,
            "sweeps": torch.full_like(best, sweeps),
            "held_out_return": return_kept,
        }
        return Learned(kept, diagnostics)

    def outlined(self) -> GPTDPolicyIteration:
        """Make a backend of one sweep.

        Returns:
            The backend.
        """
        new = copy.copy(self)
        new.fit_steps, new.max_sweeps, new.horizon = 0, 1, 1
        return new

    # -- simulated steps --------------------------------------------------------------

    def _simulated(self, theta: Tensor, seeds: list[int]) -> _Problem:
        plant, count = self.simulator, len(theta)
        s = self._spread_states(theta, seeds)
        # every action as often as the others, in an order of its own for each draw
        orders = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(substream(seed, 2))
            orders.append(torch.randperm(self.num_steps, generator=generator))
        number = torch.stack(orders) % len(self.grid)
        a = self.grid[number]
        noise, weight = self._noise([substream(x, 3) for x in seeds])
        wide_s, wide_a = s[:, :, None], a[:, :, None]
        following = plant.simulate(theta[:, None, None], wide_s, wide_a, noise)
        if bool((following == following[:, :, :1]).all()):  # no noise: one is enough
            following, weight = following[:, :, :1], weight.new_ones(1)
        reward = plant.reward(wide_s, wide_a, following).double()
        shape = count, self.num_steps, len(weight)
        wide = weight.expand(shape)
        return _Problem(
            theta, self._join(s, a), following, wide, (wide * reward).sum(-1)
        )

    def _spread_states(self, theta: Tensor, seeds: list[int]) -> Tensor:
        """States where values are learned, `(B, T, n)`.

        Successors must not fall where nothing was learned, so most states of the plant
        are first moved by some random actions.

        Returns:
            The states.
        """
        plant = self.simulator
        s = self._draw_states([substream(x, 1) for x in seeds], self.num_steps)
        if self.states is not None:
            return s
        shape = _MOVES, self.num_steps
        noise = self._draw_noise([substream(x, 8) for x in seeds], shape)
        generators = [torch.Generator().manual_seed(substream(x, 9)) for x in seeds]
        grid = self.grid
        number = torch.stack(
            [torch.randint(len(grid), shape, generator=g) for g in generators]
        )
        moves = torch.arange(self.num_steps) % (_MOVES + 1)
        for step in range(_MOVES):
            ahead = plant.simulate(
                theta[:, None], s, grid[number[:, step]], noise[:, step]
            )
            s = torch.where((moves > step)[:, None], ahead, s)
        return s

    def _noise(self, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Noise of the successors, `(B, T, J, k)` or alike, and their weights."""
        plant, count = self.simulator, self.successors
        noise, weight = successor_noise(plant, count, seeds[0])
        if has_quadrature(plant):
            return noise.expand(1, 1, -1, -1), weight
        return self._draw_noise(seeds, (self.num_steps, count)), weight

    def _steps(self, problem: _Problem, chosen: Tensor) -> Transitions:
        x_next = self._join(problem.following, self.grid[chosen])
        return Transitions(
            problem.x, x_next, problem.reward, self.discount, problem.weight
        )

    # -- policies ---------------------------------------------------------------------

    def _myopic(self, problem: _Problem) -> Tensor:
        """Numbers of the actions of largest reward, `(B, T, J)`."""
        plant, s = self.simulator, problem.following[:, :, :, None]
        quiet = s.new_zeros(plant.noise_dim)
        theta = problem.theta[:, None, None, None]
        ahead = plant.simulate(theta, s, self.grid, quiet)
        return plant.reward(s, self.grid, ahead).argmax(-1)

    def _greedy(self, model: ExactGPTD, s: Tensor) -> Tensor:
        """Numbers of the best actions, `(B, ...)` of states `(B, ..., n)`."""
        flat = s.reshape(len(s), -1, s.shape[-1])
        return self._mean(model, flat).argmax(-1).reshape(s.shape[:-1])

    def _trial(self, seeds: list[int]) -> tuple[Tensor, Tensor]:
        first = self._draw_states([substream(x, 4) for x in seeds], self.held_out)
        shape = self.horizon, self.held_out
        return first, self._draw_noise([substream(x, 5) for x in seeds], shape)

    def _greedy_return(
        self, model: ExactGPTD, theta: Tensor, s: Tensor, noise: Tensor
    ) -> Tensor:
        """Discounted return of the greedy policy, `(B,)`."""
        plant, total = self.simulator, theta.new_zeros(len(theta))
        for step in range(self.horizon):
            a = self.grid[self._greedy(model, s)]
            ahead = plant.simulate(theta[:, None], s, a, noise[:, step])
            gain = plant.reward(s, a, ahead).double().mean(-1)
            total = total + self.discount**step * gain
            s = ahead
        return torch.where(total.isfinite(), total, -1e300)

    def _residual(
        self, model: ExactGPTD, theta: Tensor, seeds: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Residual of Bellman's equation on fresh steps, and the spread of values."""
        plant, count = self.simulator, 4 * self.held_out
        s = self._draw_states([substream(x, 6) for x in seeds], count)
        number = torch.arange(count) % len(self.grid)
        a = self.grid[number].expand(len(theta), *self.grid[number].shape)
        noise, weight = self._noise([substream(x, 7) for x in seeds])
        noise = noise[:, :count] if noise.shape[1] > 1 else noise
        wide_s, wide_a = s[:, :, None], a[:, :, None]
        ahead = plant.simulate(theta[:, None, None], wide_s, wide_a, noise)
        reward = plant.reward(wide_s, wide_a, ahead).double()
        flat = ahead.reshape(len(theta), -1, s.shape[-1])
        later = self._mean(model, flat).amax(-1).reshape(ahead.shape[:-1])
        target = (weight * (reward + self.discount * later)).sum(-1)
        q = self._mean(model, s)
        own = q.gather(-1, number.expand(q.shape[:-1])[..., None])[..., 0]
        spread = own.std(-1).clamp_min(1e-12)
        return (own - target).square().mean(-1).sqrt(), spread
