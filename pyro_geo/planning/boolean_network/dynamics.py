r"""A controlled network as transitions between its :math:`2^n` states."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyro_geo.errors import ConvergenceWarning
from pyro_geo.planning.boolean_network.channel import floating
from pyro_geo.planning.boolean_network.hypercube import (
    mix_by,
    mutation_kernels,
    push,
    state_index,
)
from pyro_geo.planning.boolean_network.network import BooleanNetwork, check_actions
from pyro_geo.planning.tabular import TabularDynamics

__all__ = ["NetworkDynamics"]


class NetworkDynamics(TabularDynamics):
    r"""Transitions of a network under flips, for many rule sets at once.

    No matrix of transitions is made: an expectation mixes the bits and looks up the
    image of each state, :math:`O(n 2^n)` for each draw.

    Args:
        network: genes and rules, at most 16 genes.
        actions: genes that each action flips, `(A, n)` zeros and ones.
        mutation: probability that a gene flips by itself: a number, or a tensor
            `(..., n)` or `(..., 1)` with the draws first.
        values: of unknown entries of the rules, `(..., k)`.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["01"])
        >>> flip = NetworkDynamics(net, torch.tensor([[0], [1]]), mutation=0.0)
        >>> flip.expect(torch.tensor([0.0, 1.0]))
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(
        self,
        network: BooleanNetwork,
        actions: Tensor,
        *,
        mutation: Tensor | float,
        values: Tensor | None = None,
    ) -> None:
        check_actions(actions, network)
        self.network = network
        self.flips = state_index(actions)  # (A,)
        self.mutation = floating(mutation)
        self.dtype = self.mutation.dtype
        self._kernels = mutation_kernels(self.mutation, network.num_genes, self.dtype)
        self.image = network.image(values)  # (..., S)
        self.num_states, self.num_actions = network.num_states, len(actions)
        self.batch_shape = torch.broadcast_shapes(
            self.image.shape[:-1], self.mutation.shape[:-1]
        )
        # several actions are one look-up: they stand behind the states
        index = self.image[..., None] ^ self.flips
        self._index = index.flatten(-2)  # (..., S * A)

    def _mix(self, values: Tensor) -> Tensor:
        """Expectation over the mutations; values may be more precise than them."""
        return mix_by(values, [kernel.to(values.dtype) for kernel in self._kernels])

    def expect(self, values: Tensor) -> Tensor:
        """Expectation of a function of the next state.

        Args:
            values: the function, `(..., S)`.

        Returns:
            Its expectation for each state and action, `(..., S, A)`.
        """
        ahead = self._mix(values)
        batch = torch.broadcast_shapes(ahead.shape[:-1], self.batch_shape)
        if self._index.dim() == 1:
            found = ahead.index_select(-1, self._index)
        else:
            index = self._index.expand(*batch, -1)
            found = ahead.expand(*batch, -1).gather(-1, index)
        return found.reshape(*batch, self.num_states, self.num_actions)

    def best(self, values: Tensor, reward: Tensor) -> Tensor:
        """Value of the best action.

        Where the reward depends on the action alone, the best action depends on the
        image of the state alone: it is found first, and looked up once for all actions.

        Args:
            values: function of the next state, `(..., S)`.
            reward: broadcasting with `(..., S, A)`.

        Returns:
            The largest value, `(..., S)`.
        """
        if reward.dim() > 1 and reward.shape[-2] > 1:
            return super().best(values, reward)
        row = reward[..., 0, :] if reward.dim() > 1 else reward.expand(self.num_actions)
        ahead = self._mix(values)
        states = torch.arange(self.num_states, device=ahead.device)
        moved = ahead[..., states ^ self.flips[:, None]]  # (..., A, S)
        best = (moved + row.expand(*row.shape[:-1], self.num_actions)[..., None]).amax(
            -2
        )
        batch = torch.broadcast_shapes(best.shape[:-1], self.batch_shape)
        return best.expand(*batch, -1).gather(-1, self.image.expand(*batch, -1))

    def advance(self, belief: Tensor, policy: Tensor) -> Tensor:
        """Distribution of the next state.

        Args:
            belief: distribution of the state, `(..., S)`.
            policy: number of the action in each state, `(..., S)`.

        Returns:
            The distribution one step later, `(..., S)`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"])
            >>> flip = NetworkDynamics(net, torch.tensor([[0], [1]]), mutation=0.0)
            >>> flip.advance(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]))
            tensor([0., 1.])
        """
        return self._mix(push(belief, self.image ^ self.flips[policy]))

    def stationary(
        self, policy: Tensor, *, tolerance: float = 1e-10, max_steps: int = 100_000
    ) -> Tensor:
        """Share of time in each state in the long run.

        Args:
            policy: number of the action in each state, `(..., S)`.
            tolerance: of the change in a step, summed over the states.
            max_steps: after which it stops with a
                :class:`~pyro_geo.errors.ConvergenceWarning`.

        Returns:
            The stationary distribution, `(..., S)`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"])
            >>> still = NetworkDynamics(net, torch.tensor([[0]]), mutation=0.2)
            >>> still.stationary(torch.tensor([0, 0]))
            tensor([0.5000, 0.5000])
        """
        batch = torch.broadcast_shapes(policy.shape[:-1], self.batch_shape)
        size = self.num_states
        belief = self.mutation.new_full((*batch, size), 1 / size)
        floor = 8 * torch.finfo(belief.dtype).eps
        change = belief.new_tensor(torch.inf)
        for _ in range(max_steps):
            # half a step leaves the law as it is, and does not go round in cycles
            new = 0.5 * (belief + self.advance(belief, policy))
            change = (new - belief).abs().sum(-1).amax()
            belief = new
            if bool(change <= max(tolerance, floor)):
                return belief
        warnings.warn(
            ConvergenceWarning(
                "the distribution of the states still changes",
                where=f"after {max_steps} steps",
                found=f"{float(change):.3g} a step",
                expected=f"at most {tolerance:g}",
                todo="Raise max_steps: a low mutation probability mixes slowly.",
            ),
            stacklevel=2,
        )
        return belief
