"""What is known of a Boolean network: its rules exactly, and its hidden state."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.errors import PriorSupportError
from pyro_geo.ops.weights import ess
from pyro_geo.planning.boolean_network import (
    BeliefFilter,
    NetworkBelief,
    StateFilter,
)
from pyro_geo.planning.posteriors import Knowledge, ParameterPosterior

__all__ = ["FilterPosterior"]


class FilterPosterior(ParameterPosterior):
    """Posterior of rule sets, or of any draws, by the exact filter of the network.

    Where measurements are noisy the state is hidden, and the knowledge holds the belief
    of it under each draw: controllers average over both.

    Args:
        filter: of the network, as
            :meth:`~pyro_geo.planning.boolean_network.NetworkControl.filter` makes it.

    Attributes:
        belief: what is known; None before the first measurement.

    Example:
        >>> from pyro_geo.planning.boolean_network import melanoma
        >>> problem = melanoma(unknown=[("RET1", 3)])
        >>> posterior = FilterPosterior(problem.filter())
        >>> posterior.begin(torch.zeros(10))
        >>> posterior.knowledge().log_weights.exp()
        tensor([0.5000, 0.5000])
    """

    def __init__(self, filter: BeliefFilter | StateFilter) -> None:
        self.filter = filter
        self.belief: NetworkBelief | None = None
        size = filter.network.num_states if isinstance(filter, BeliefFilter) else 0
        self._states = torch.arange(size)
        self.ess = float(ess(filter.log_prior))

    def begin(self, s: Tensor) -> None:
        """Take the first measurement.

        Args:
            s: measurement, `(n,)`.
        """
        if self.belief is None:
            self.belief = self.filter.start(s)

    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Filter the measurement after an action.

        Args:
            s: the measurement before it; only the first one counts.
            a: number of the action.
            reward: not used.
            s_next: the measurement after it, `(n,)`.

        Raises:
            PriorSupportError: no draw can have caused the measurement.
        """
        self.begin(s)
        assert self.belief is not None
        belief = self.filter.step(self.belief, torch.as_tensor(a).long(), s_next)
        if not bool(belief.log_evidence.isfinite()):
            raise PriorSupportError(
                "no draw can have caused this measurement",
                where="FilterPosterior.observe, argument s_next",
                found="a likelihood of zero under all draws",
                expected="a draw of positive likelihood",
                todo="Give genes a probability of mutation above zero.",
            )
        self.belief = belief
        self.ess = float(ess(belief.log_weights))

    def knowledge(self) -> Knowledge:
        """Give the draws, with the belief of the state where it is hidden."""
        theta, belief = self.filter.values, self.belief
        theta = theta.to(self.filter.log_prior.dtype)
        if belief is None:
            return Knowledge(theta, self.filter.log_prior)
        if isinstance(self.filter, StateFilter):
            return Knowledge(theta, belief.log_weights)
        return Knowledge(theta, belief.log_weights, self._states, belief.states)

    def prior_knowledge(self) -> Knowledge:
        """Give the draws with their weights before anything was observed.

        A hidden state is still followed by its belief under each of them.

        Returns:
            The draws.
        """
        return self.knowledge()._replace(log_weights=self.filter.log_prior)
