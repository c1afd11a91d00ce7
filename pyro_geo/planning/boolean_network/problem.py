"""A network to be controlled: what may be flipped, what costs, what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.errors import ModelError
from pyro_geo.planning.boolean_network.channel import Channel
from pyro_geo.planning.boolean_network.dynamics import NetworkDynamics
from pyro_geo.planning.boolean_network.filtering import BeliefFilter, StateFilter
from pyro_geo.planning.boolean_network.hypercube import state_bits
from pyro_geo.planning.boolean_network.network import BooleanNetwork
from pyro_geo.planning.tabular import TabularValues, TabularVI

__all__ = ["NetworkControl"]


class NetworkControl:
    r"""Keep one gene of a network out of a bad state by flipping others.

    .. math:: r(x_k, u_k, x_{k+1}) = -c_b\, 1[x_{k+1,g} = b] - c_f\, |u_k|

    A step's cost is counted in the state that it leads to.

    Args:
        network: genes and rules.
        target: gene that should not be in the bad state.
        bad_value: that state, 0 or 1.
        controls: genes that may be flipped.
        bad_cost: cost :math:`c_b` of a step that ends in the bad state.
        flip_cost: cost :math:`c_f` of a flip.
        combined: whether several genes may be flipped in one step. Otherwise an action
            flips one of them, or none.
        mutation: probability that a gene flips by itself: a number or `(n,)`.
        channel: law of the measurements. Left out: states are seen without noise.
        discount: of the rewards, for :meth:`solve`.
        name: of the problem.
        fixed_inputs: inputs of the published network that its rules hold constant, for
            the record.

    Raises:
        ModelError: the target, its bad value or the controls are wrong.

    Example:
        >>> net = BooleanNetwork("ab", [["b"], ["b"]], ["01", "01"])
        >>> problem = NetworkControl(net, target="a", bad_value=1, controls=["b"])
        >>> problem.actions.tolist()
        [[0, 0], [0, 1]]
        >>> problem.solve().policy.tolist()
        [0, 1, 0, 1]
    """

    citations = ("bayes_control",)

    def __init__(
        self,
        network: BooleanNetwork,
        *,
        target: str | int,
        bad_value: int,
        controls: Sequence[str | int],
        bad_cost: float = 1.0,
        flip_cost: float = 0.2,
        combined: bool = False,
        mutation: Tensor | float = 0.01,
        channel: Channel | None = None,
        discount: float = 0.95,
        name: str = "",
        fixed_inputs: Mapping[str, int] | None = None,
    ) -> None:
        place = f"network {name!r}" if name else "NetworkControl"
        self.target = network.gene_number(target, f"target of {place}")
        self.controls = tuple(
            network.gene_number(gene, f"controls of {place}") for gene in controls
        )
        twice = len(set(self.controls)) < len(self.controls)
        if twice or not self.controls or self.target in self.controls:
            raise ModelError(
                "wrong controls",
                where=place,
                found=[network.genes[gene] for gene in self.controls],
                expected="at least one gene, each once, and not the target "
                f"{network.genes[self.target]!r}",
                todo="Name the genes that may be flipped.",
            )
        good = bad_value in (0, 1)
        check(good, f"bad_value of {place}", bad_value, "0 or 1", error=ModelError)
        for label, cost in (("bad_cost", bad_cost), ("flip_cost", flip_cost)):
            check_number(label, cost)
        if not isinstance(mutation, Tensor):
            check_number("mutation", mutation, 0.0, 1.0)
        self.network, self.bad_value = network, int(bad_value)
        self.bad_cost, self.flip_cost = float(bad_cost), float(flip_cost)
        self.mutation, self.channel, self.discount = mutation, channel, discount
        self.name, self.fixed_inputs = name, dict(fixed_inputs or {})
        most = len(self.controls) if combined else 1
        chosen = [
            genes
            for size in range(most + 1)
            for genes in itertools.combinations(self.controls, size)
        ]
        self.actions = torch.zeros(len(chosen), network.num_genes, dtype=torch.long)
        for action, genes in enumerate(chosen):
            self.actions[action, list(genes)] = 1

    @property
    def num_actions(self) -> int:
        """Number of actions `A`; action 0 flips nothing."""
        return len(self.actions)

    @property
    def action_reward(self) -> Tensor:
        """Reward of each action, minus the cost of its flips, `(A,)`."""
        return -self.flip_cost * self.actions.sum(-1).to(torch.get_default_dtype())

    @property
    def arrival_reward(self) -> Tensor:
        """Reward of each state that a step leads to, `(2^n,)`."""
        bits = state_bits(self.network.num_genes)[:, self.target]
        return -self.bad_cost * (bits == self.bad_value).to(torch.get_default_dtype())

    def reward(self, action: Tensor, following: Tensor) -> Tensor:
        """Reward of steps.

        Args:
            action: number of the action, `(...)`.
            following: bits of the state that it led to, `(..., n)`.

        Returns:
            Rewards, `(...)`.

        Example:
            >>> net = BooleanNetwork("ab", [["b"], ["b"]], ["01", "01"])
            >>> problem = NetworkControl(net, target=0, bad_value=1, controls=[1])
            >>> problem.reward(torch.tensor([0, 1]), torch.tensor([[1, 0], [0, 0]]))
            tensor([-1.0000, -0.2000])
        """
        bad = following[..., self.target].round() == self.bad_value
        return self.action_reward[action] - self.bad_cost * bad

    def dynamics(self, values: Tensor | None = None) -> NetworkDynamics:
        """Transitions for draws of the unknown rule entries.

        Args:
            values: draws, `(..., k)`. Left out: the rules as published.

        Returns:
            The transitions between all states.
        """
        return NetworkDynamics(
            self.network, self.actions, mutation=self.mutation, values=values
        )

    def solve(
        self,
        values: Tensor | None = None,
        *,
        horizon: int | None = None,
        tolerance: float = 1e-8,
        initial: Tensor | None = None,
    ) -> TabularValues:
        """Find the exact action values of every state, for all draws of the rules.

        Args:
            values: draws of the unknown entries, `(..., k)`. Left out: the rules as
                published.
            horizon: number of actions that are looked ahead, 1 for the myopic rule.
                Left out: without end.
            tolerance: of the error bound.
            initial: values to start from, `(..., 2^n)`.

        Returns:
            Values and actions.
        """
        solver = TabularVI(discount=self.discount, horizon=horizon, tolerance=tolerance)
        return solver.solve(
            self.dynamics(values),
            self.action_reward,
            arrival=self.arrival_reward,
            initial=initial,
        )

    def filter(
        self,
        values: Tensor | None = None,
        *,
        log_prior: Tensor | None = None,
        initial: Tensor | None = None,
    ) -> BeliefFilter | StateFilter:
        """Make the filter for what is measured: of the belief, or of the states seen.

        Args:
            values: draws of the unknown entries, `(..., draws, k)`. Left out: all sets.
            log_prior: log-weights of the draws, `(..., draws)`.
            initial: distribution of the first state, `(2^n,)`; not used where states
                are seen.

        Returns:
            The filter.
        """
        if self.channel is None:
            return StateFilter(
                self.network,
                self.actions,
                mutation=self.mutation,
                values=values,
                log_prior=log_prior,
            )
        return BeliefFilter(
            self.network,
            self.actions,
            mutation=self.mutation,
            channel=self.channel,
            values=values,
            log_prior=log_prior,
            initial=initial,
        )

    def occupancy(self, policy: Tensor, values: Tensor | None = None) -> Tensor:
        """Share of time that the target is bad in the long run.

        Args:
            policy: number of the action in each state, `(..., 2^n)`; zeros for no
                control.
            values: draws of the unknown entries, `(..., k)`.

        Returns:
            Shares, `(...)`.
        """
        law = self.dynamics(values).stationary(policy)
        bad = state_bits(self.network.num_genes)[:, self.target] == self.bad_value
        return law[..., bad].sum(-1)

    def __repr__(self) -> str:
        gene = self.network.genes[self.target]
        return (
            f"NetworkControl({self.name!r}, {self.network.num_genes} genes, "
            f"{self.num_actions} actions, keep {gene!r} off {self.bad_value})"
        )
