"""The posterior of unknown rules, by listing every set of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.planning.boolean_network.channel import Channel
from pyro_geo.planning.boolean_network.filtering import rule_log_prior
from pyro_geo.planning.boolean_network.hypercube import state_index
from pyro_geo.planning.boolean_network.likelihood import (
    log_likelihood,
    transition_log_prob,
)
from pyro_geo.planning.boolean_network.network import BooleanNetwork

__all__ = ["RulePosterior", "rule_posterior"]


class RulePosterior(NamedTuple):
    """Posterior of all rule sets.

    Attributes:
        values: the sets, `(sets, k)` zeros and ones.
        log_weights: their posterior, normalised, `(..., sets)`.
        log_evidence: log-probability of the measurements, `(...)`.
    """

    values: Tensor
    log_weights: Tensor
    log_evidence: Tensor

    @property
    def entry_probability(self) -> Tensor:
        """Probability that each unknown entry is one, `(..., k)`."""
        weights = self.log_weights.exp()
        return weights @ self.values.to(weights)

    @property
    def best(self) -> Tensor:
        """The most probable set, `(..., k)`."""
        return self.values[self.log_weights.argmax(-1)]

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw rule sets.

        Args:
            num_samples: number of draws.
            generator: source of the randomness.

        Returns:
            Sets, `(num_samples, ..., k)`.
        """
        shape = self.log_weights.shape
        flat = self.log_weights.exp().reshape(-1, shape[-1])
        drawn = torch.multinomial(flat, num_samples, True, generator=generator)
        return self.values[drawn.T.reshape(num_samples, *shape[:-1])]


def rule_posterior(
    network: BooleanNetwork,
    y: Tensor,
    flips: Tensor | None = None,
    *,
    mutation: Tensor | float,
    channel: Channel | None = None,
    prior: Tensor | float = 0.5,
    initial: Tensor | None = None,
) -> RulePosterior:
    r"""Posterior of the unknown rule entries, exact.

    .. math:: p(r \mid y_{1:T}) \propto p(r)\, p(y_{1:T} \mid r)

    All :math:`2^k` sets are one batch of :func:`log_likelihood`.

    Args:
        network: genes and rules, with unknown entries.
        y: measurements, `(..., T, n)`; NaN where none was made.
        flips: genes that were flipped after each measurement but the last,
            `(..., T - 1, n)`.
        mutation: probability that a gene flips by itself: a number or `(n,)`.
        channel: law of the measurements. Left out: `y` are the states themselves.
        prior: probability that an entry is one: a number or `(k,)`.
        initial: distribution of the first state, `(2^n,)`. Left out: uniform.

    Returns:
        The posterior, with the leading axes of `y`.

    References:
        Derived from the model of Imani, Ghoreishi and Braga-Neto (2018), Bayesian
        Control of Large MDPs with Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 0), ("a", 1)])
        >>> path = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
        >>> found = rule_posterior(net, path, mutation=0.1)
        >>> found.best.tolist(), found.entry_probability
        ([1, 0], tensor([0.9878, 0.1000]))
    """
    check(bool(network.unknown), "network", repr(network), "one with unknown entries")
    values = network.rule_sets()
    y = y[..., None, :, :]
    flips = None if flips is None else flips[..., None, :, :]
    if channel is None:
        gain = transition_log_prob(network, y, flips, mutation=mutation, values=values)
        first = gain.new_tensor(-network.num_genes * math.log(2.0))
        if initial is not None:
            first = initial.log()[state_index(y[..., 0, :])]
        gain = gain + first  # the first state is seen too
    else:
        gain = log_likelihood(
            network,
            y,
            flips,
            mutation=mutation,
            channel=channel,
            values=values,
            initial=initial,
        )
    joint = rule_log_prior(values, prior) + gain
    total = joint.logsumexp(-1)
    return RulePosterior(values, joint - total[..., None], total)
