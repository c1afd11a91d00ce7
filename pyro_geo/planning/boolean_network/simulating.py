"""Controllers of a network tried on many runs at once, under the same noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.planning.boolean_network.hypercube import state_index
from pyro_geo.planning.boolean_network.problem import NetworkControl
from pyro_geo.planning.selectors import Select, mean_rule

__all__ = ["Episodes", "NetworkRuns", "mean_rule", "no_control"]


class Episodes(NamedTuple):
    """Runs of a controller; time is the first axis.

    Attributes:
        states: the states, `(T + 1, runs, n)` zeros and ones.
        observations: their measurements, `(T + 1, runs, n)`.
        actions: numbers of the actions, `(T, runs)`.
        costs: minus the rewards, `(T, runs)`.
        log_weights: posterior of the draws before each action and at the end,
            `(T + 1, runs, draws)`.
    """

    states: Tensor
    observations: Tensor
    actions: Tensor
    costs: Tensor
    log_weights: Tensor


def no_control(values: Tensor, log_weights: Tensor) -> Tensor:
    """Flip nothing.

    Args:
        values: action values, `(runs, draws, A)`.
        log_weights: posterior of the draws, `(runs, draws)`.

    Returns:
        Zeros, `(runs,)`.

    Example:
        >>> no_control(torch.zeros(2, 4, 3), torch.zeros(2, 4))
        tensor([0, 0])
    """
    return torch.zeros(log_weights.shape[:-1], dtype=torch.long)


class NetworkRuns:
    r"""Runs of one network whose rules differ and are unknown to the controller.

    Rules, first states and noise are drawn once, from `seed`; every controller then
    meets the same ones, so that costs can be compared in pairs. All runs are one batch.

    A controller is a function `select(values, log_weights)` of the action values of
    each draw, averaged over the belief, `(runs, draws, A)`, and of the posterior of
    the draws, `(runs, draws)`. It returns the number of an action for each run.

    Args:
        problem: the network, with its unknown entries.
        num_runs: number of runs.
        num_steps: actions in each.
        seed: of rules, first states and noise.
        truth: rules of the runs, `(runs, k)`. Left out: drawn, each entry one with
            probability one half.

    Example:
        >>> from pyro_geo.planning.boolean_network import melanoma
        >>> problem = melanoma(unknown=[("RET1", 3)])
        >>> runs = NetworkRuns(problem, num_runs=4, num_steps=5, seed=0)
        >>> q = problem.solve(problem.network.rule_sets(), tolerance=0.01)
        >>> runs.unknown(mean_rule, q.action_values).costs.shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        problem: NetworkControl,
        *,
        num_runs: int,
        num_steps: int,
        seed: int,
        truth: Tensor | None = None,
    ) -> None:
        check_count("num_runs", num_runs)
        check_count("num_steps", num_steps)
        network = problem.network
        self.problem = problem
        self.num_runs, self.num_steps = num_runs, num_steps
        self._sets = network.rule_sets()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(self._sets), (num_runs,), generator=generator)
        if truth is None:
            truth = self._sets[drawn]
        check_shape("truth", truth.shape, (num_runs, len(network.unknown)))
        bits = truth.round().long()
        binary = bool(((bits == truth) & (bits >= 0) & (bits <= 1)).all())
        check(binary, "truth", "other values", "zeros and ones")
        self.truth = bits
        shape = num_runs, network.num_genes
        self._first = torch.randint(2, shape, generator=generator)
        uniform = torch.rand(num_steps, *shape, generator=generator, dtype=torch.double)
        self._mutated = uniform < torch.as_tensor(problem.mutation)
        # a seed for each step: those of other runs must not be the same ones, shifted
        shape = (num_steps + 1,)
        self._seeds = torch.randint(2**62, shape, generator=generator).tolist()

    def unknown(self, select: Select, q: Tensor) -> Episodes:
        """Run a controller that does not know the rules, and learns them.

        Args:
            select: the controller.
            q: action values of every state under each rule set, `(sets, 2^n, A)`, as
                :meth:`NetworkControl.solve` gives them for
                :meth:`BooleanNetwork.rule_sets`; of a one-step problem for a myopic
                controller.

        Returns:
            The runs.
        """
        return self._run(select, q, None)

    def known(self, q: Tensor, select: Select = mean_rule) -> Episodes:
        """Run a controller that knows the rules.

        Args:
            q: action values of every state under each rule set, `(sets, 2^n, A)`.
            select: the controller, for one draw: that of the true rules. Left out:
                the best action, which with a belief of the state is the QMDP rule.

        Returns:
            The runs.
        """
        own = q[state_index(self.truth)][:, None]  # (runs, 1, S, A)
        return self._run(select, own, self.truth[:, None])

    def _run(self, select: Select, q: Tensor, values: Tensor | None) -> Episodes:
        problem = self.problem
        known = problem.filter(values)
        states, observations, actions, costs, weights = [self._first], [], [], [], []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self._seeds[0])
            observations.append(self._measure(self._first))
            belief = known.start(observations[0])
            weights.append(belief.log_weights)
            for t in range(self.num_steps):
                action = select(known.action_values(belief, q), belief.log_weights)
                ahead = problem.network.step(states[-1], self.truth)
                state = ahead ^ problem.actions[action] ^ self._mutated[t].long()
                # a controller that draws at random must not change the noise
                torch.manual_seed(self._seeds[t + 1])
                y = self._measure(state)
                belief = known.step(belief, action, y)
                states.append(state)
                observations.append(y)
                actions.append(action)
                costs.append(-problem.reward(action, state))
                weights.append(belief.log_weights)
        parts = states, observations, actions, costs, weights
        return Episodes(*(torch.stack(part) for part in parts))

    def _measure(self, states: Tensor) -> Tensor:
        channel = self.problem.channel
        if channel is None:
            return states.to(torch.get_default_dtype())
        return channel.sample(states)
