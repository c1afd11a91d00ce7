r"""What is known of a network while it runs: its state, and which rules it follows.

Both filters hold a batch of runs, and in each run a list of draws of what is unknown:
rule sets, or any draws of rules, mutation and measurement parameters. For each draw
they keep a distribution of the state (or the state itself, where it is seen) and a
weight, which Bayes' rule multiplies by how well the draw predicted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.planning.boolean_network.channel import Channel, floating
from pyro_geo.planning.boolean_network.hypercube import (
    bits_of,
    condition,
    evidence,
    mix_by,
    mutation_kernels,
    push,
    state_bits,
    state_index,
)
from pyro_geo.planning.boolean_network.network import BooleanNetwork, check_actions

__all__ = ["NetworkBelief", "BeliefFilter", "StateFilter", "rule_log_prior"]

_NUMBERS = 1 << 18  # in the belief of the runs that are filtered at once


class NetworkBelief(NamedTuple):
    """What is known after some measurements.

    Attributes:
        states: distribution of the state under each draw, `(..., draws, 2^n)`; of a
            :class:`StateFilter` the index of the state, `(..., 1)`.
        log_weights: posterior of the draws, normalised, `(..., draws)`.
        log_evidence: log-probability of all measurements so far, `(...)`.
    """

    states: Tensor
    log_weights: Tensor
    log_evidence: Tensor


def rule_log_prior(values: Tensor, prior: Tensor | float = 0.5) -> Tensor:
    r"""Prior of rule sets whose entries are independent.

    Args:
        values: rule sets, `(..., k)`.
        prior: probability that an entry is one: a number or `(k,)`.

    Returns:
        Log-probabilities, `(...)`.

    Example:
        >>> rule_log_prior(torch.tensor([[0], [1]]), 0.25).exp()
        tensor([0.7500, 0.2500])
    """
    inside = isinstance(prior, Tensor) or 0 <= prior <= 1
    check(inside, "prior", prior, "a probability, from 0 to 1")
    p = floating(prior)
    return torch.where(values > 0.5, p.log(), torch.log1p(-p)).sum(-1)


class _Filter:
    """What both filters share: draws, their prior and the actions."""

    citations = ("bayes_control",)

    def __init__(
        self,
        network: BooleanNetwork,
        actions: Tensor,
        *,
        mutation: Tensor | float,
        values: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> None:
        check_actions(actions, network)
        self.network, self.actions = network, actions.round().long()
        self.values = network.rule_sets() if values is None else values
        good = self.values.dim() >= 2
        check_shape("values", self.values.shape, "(..., draws, k)", good)
        self.mutation = floating(mutation)
        prior = rule_log_prior(self.values) if log_prior is None else log_prior
        draws = self.values.shape[-2]
        check_shape("log_prior", prior.shape[-1:], (draws,))
        self.log_prior = torch.log_softmax(prior.to(self.mutation.dtype), -1)

    def _prior(self, states: Tensor, y: Tensor) -> NetworkBelief:
        """The belief before any measurement, with the leading axes of `y`."""
        batch = torch.broadcast_shapes(y.shape[:-1], self.log_prior.shape[:-1])
        log_prior = self.log_prior.expand(*batch, -1)
        return NetworkBelief(states, log_prior, log_prior.new_zeros(batch))

    def _weigh(
        self, belief: NetworkBelief, states: Tensor, gain: Tensor
    ) -> NetworkBelief:
        """Multiply the weights by the evidence of each draw, and normalise."""
        weights = belief.log_weights + gain
        total = weights.logsumexp(-1)
        # a measurement that no draw can have caused leaves the weights as they were
        possible = total.isfinite()
        weights = torch.where(
            possible[..., None],
            weights - torch.where(possible, total, 0.0)[..., None],
            belief.log_weights,
        )
        return NetworkBelief(states, weights, belief.log_evidence + total)


class BeliefFilter(_Filter):
    r"""Exact filter of the state and the rules under noisy measurements.

    .. math:: b'(x') \propto p(y \mid x') \sum_x p(x' \mid x, u)\, b(x)

    for every draw, :math:`O(n 2^n)` a step. The weight of a draw is multiplied by the
    normalising constant of its own step.

    Args:
        network: genes and rules, at most 16 genes.
        actions: genes that each action flips, `(A, n)` zeros and ones.
        mutation: probability that a gene flips by itself: a number, or a tensor
            `(n,)`, `(draws, 1)` or `(draws, n)`.
        channel: law of the measurements; parameters that differ between draws have the
            shape `(draws, 1)` or `(draws, n)`.
        values: draws of the unknown entries, `(..., draws, k)`. Left out: all sets,
            :meth:`BooleanNetwork.rule_sets`.
        log_prior: log-weights of the draws before any measurement, `(..., draws)`.
            Left out: each entry is one with probability one half.
        initial: distribution of the first state, `(..., 2^n)`. Left out: uniform.

    References:
        Derived from the model of Imani, Ghoreishi and Braga-Neto (2018), Bayesian
        Control of Large MDPs with Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 1)])
        >>> options = {"mutation": 0.01, "channel": Channel.bernoulli(0.1)}
        >>> rules = BeliefFilter(net, torch.zeros(1, 1), **options)
        >>> belief = rules.start(torch.ones(1))
        >>> for _ in range(3):
        ...     belief = rules.step(belief, torch.tensor(0), torch.ones(1))
        >>> belief.log_weights.exp()
        tensor([0.0020, 0.9980])
    """

    def __init__(
        self,
        network: BooleanNetwork,
        actions: Tensor,
        *,
        mutation: Tensor | float,
        channel: Channel,
        values: Tensor | None = None,
        log_prior: Tensor | None = None,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__(
            network, actions, mutation=mutation, values=values, log_prior=log_prior
        )
        self.channel = channel
        self.image = network.image(self.values)  # (..., draws, S)
        self.flips = state_index(self.actions)
        self._kernels = mutation_kernels(
            self.mutation, network.num_genes, self.mutation.dtype
        )
        size = network.num_states
        uniform = torch.full((size,), 1 / size, dtype=self.mutation.dtype)
        self.initial = uniform if initial is None else initial
        check_shape("initial", self.initial.shape[-1:], (size,))

    def start(self, y: Tensor) -> NetworkBelief:
        """NetworkBelief after the first measurement.

        Args:
            y: measurements of the first states, `(..., n)`; NaN where none was made.

        Returns:
            The belief, with the leading axes of `y`.
        """
        first = self.initial
        first = first[..., None, :] if first.dim() > 1 else first
        return self._update(self._prior(first, y), y)

    def predict(self, belief: NetworkBelief, action: Tensor) -> NetworkBelief:
        """NetworkBelief after an action, before the next measurement.

        Args:
            belief: before the action.
            action: number of the action of each run, `(...)`, broadcasting with the
                runs. For all actions of all runs give the belief an axis of length one
                behind those of the runs, and pass `torch.arange(A)`.

        Returns:
            The belief; weights and evidence are as before.
        """
        index = self.image ^ self.flips[action][..., None, None]
        states = mix_by(push(belief.states, index), self._kernels)
        return belief._replace(states=states)

    def step(self, belief: NetworkBelief, action: Tensor, y: Tensor) -> NetworkBelief:
        """NetworkBelief after an action and the measurement that follows.

        Args:
            belief: before the action.
            action: number of the action of each run, `(...)`.
            y: measurements after it, `(..., n)`; NaN where none was made.

        Returns:
            The new belief.
        """
        runs = belief.states.shape[:-2]
        rows = _NUMBERS // belief.states[0].numel() if len(runs) == 1 else 0
        alike = len(runs) == 1 and self.image.dim() == 2
        alike = alike and action.shape == y.shape[:-1] == runs
        if not alike or max(rows, 1) >= runs[0]:
            return self._update(self.predict(belief, action), y)
        # some runs at a time: tensors that stay in the processor's cache
        parts = [
            self._update(self.predict(NetworkBelief(*b), a), z)
            for *b, a, z in zip(
                *(x.split(max(rows, 1)) for x in (*belief, action, y)), strict=True
            )
        ]
        return NetworkBelief(*map(torch.cat, zip(*parts, strict=True)))

    def action_values(self, belief: NetworkBelief, q: Tensor) -> Tensor:
        r"""Average action values over the state, for each draw.

        .. math:: \bar Q_r(a) = \sum_x b_r(x)\, Q_r(x, a)

        Args:
            belief: what is known.
            q: action values of each state, `(..., draws, 2^n, A)`.

        Returns:
            Values, `(..., draws, A)`. Weighted by the posterior of the draws they are
            the values of the QMDP rule.
        """
        states = belief.states.to(q)
        if q.dim() == 3:  # one small product for each draw, whatever the runs
            return torch.einsum("...rs,rsa->...ra", states, q)
        return (states[..., None, :] @ q)[..., 0, :]

    def gene_probability(self, belief: NetworkBelief) -> Tensor:
        """Probability that each gene is on, over states and draws.

        Args:
            belief: what is known.

        Returns:
            Probabilities, `(..., n)`.
        """
        bits = state_bits(self.network.num_genes).to(belief.states)
        weights = belief.log_weights.exp()[..., None]
        return (weights * (belief.states @ bits)).sum(-2)

    def _update(self, belief: NetworkBelief, y: Tensor) -> NetworkBelief:
        count = self.network.num_genes
        check_shape("y", y.shape, f"(..., {count})", y.shape[-1:] == (count,))
        found = evidence(self.channel.log_prob(y[..., None, :]))
        states, gain = condition(belief.states, found)
        shape = torch.broadcast_shapes(gain.shape, belief.log_weights.shape)
        states = states.expand(*shape, -1)
        return self._weigh(belief, states, gain.expand(shape))


class StateFilter(_Filter):
    r"""Exact filter of the rules where the states are seen without noise.

    The weight of a draw is multiplied by :math:`p(x' \mid x, u)`. States are not
    enumerated, so the network may have any number of genes.

    Args:
        network: genes and rules.
        actions: genes that each action flips, `(A, n)` zeros and ones.
        mutation: probability that a gene flips by itself: a number, or a tensor
            `(n,)`, `(draws, 1)` or `(draws, n)`.
        values: draws of the unknown entries, `(..., draws, k)`. Left out: all sets,
            :meth:`BooleanNetwork.rule_sets`.
        log_prior: log-weights of the draws before any measurement, `(..., draws)`.
            Left out: each entry is one with probability one half.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 1)])
        >>> rules = StateFilter(net, torch.zeros(1, 1), mutation=0.1)
        >>> belief = rules.start(torch.ones(1))
        >>> rules.step(belief, torch.tensor(0), torch.ones(1)).log_weights.exp()
        tensor([0.1000, 0.9000])
    """

    def start(self, y: Tensor) -> NetworkBelief:
        """NetworkBelief at the first state.

        Args:
            y: the state of each run, `(..., n)` zeros and ones.

        Returns:
            The belief, with the leading axes of `y`.
        """
        return self._prior(state_index(y)[..., None], y)

    def step(self, belief: NetworkBelief, action: Tensor, y: Tensor) -> NetworkBelief:
        """NetworkBelief after an action and the state that follows.

        Args:
            belief: before the action.
            action: number of the action of each run, `(...)`.
            y: the state after it, `(..., n)` zeros and ones.

        Returns:
            The new belief.
        """
        count = self.network.num_genes
        check_shape("y", y.shape, f"(..., {count})", y.shape[-1:] == (count,))
        before = bits_of(belief.states, count)  # (..., 1, n)
        ahead = (
            self.network.step(before, self.values) ^ self.actions[action][..., None, :]
        )
        flipped = ahead != y.round().long()[..., None, :]
        p = self.mutation
        gain = torch.where(flipped, p.log(), torch.log1p(-p)).sum(-1)
        return self._weigh(belief, state_index(y)[..., None], gain)

    def action_values(self, belief: NetworkBelief, q: Tensor) -> Tensor:
        """Action values in the present state, for each draw.

        Args:
            belief: what is known.
            q: action values of each state, `(..., draws, 2^n, A)`.

        Returns:
            Values, `(..., draws, A)`.
        """
        if q.dim() == 3:
            return q[:, belief.states[..., 0]].movedim(0, -2)
        shape = *belief.states.shape[:-1], *q.shape[-3:]
        index = belief.states[..., None, None].expand(*shape[:-2], 1, shape[-1])
        return q.expand(shape).gather(-2, index)[..., 0, :]
