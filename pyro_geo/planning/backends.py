r"""Value backends: action values of known dynamics, for a batch of draws of them.

A backend learns the values of several draws at once and gives them back as plain
tensors. It then answers what the values of some states are, with their variances.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check_number
from pyro_geo.planning.tabular import TabularDynamics, TabularVI

if TYPE_CHECKING:
    from pyro_geo.planning.boolean_network import NetworkControl
    from pyro_geo.planning.environments import Plant

__all__ = ["ExactValues", "Learned", "TabularBackend", "ValueBackend"]


class Learned(NamedTuple):
    """What a backend has learned of some draws.

    Attributes:
        tensors: name to tensor; the first axis is that of the draws.
        diagnostics: name to one number for each draw, `(B,)`.
    """

    tensors: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


class ValueBackend(Made, ABC):
    """A way to the action values of known dynamics.

    Attributes:
        discount: of the rewards.
        plant: the dynamics, where the backend simulates them.
    """

    discount: float
    plant: Plant | None = None

    @property
    def grid(self) -> Tensor | None:
        """The actions whose values are given, `(A, ...)`; None without a plant."""
        return None if self.plant is None else self.plant.actions

    def bound(self, plant: Plant | None) -> Self:
        """Make the same backend for a plant.

        Args:
            plant: the dynamics.

        Returns:
            A copy; this one does not change.
        """
        new = copy.copy(self)
        new.plant = plant
        return new

    def outlined(self) -> ValueBackend:
        """Make a backend that learns tensors of the same shapes with less work.

        Returns:
            This one, where nothing can be spared.
        """
        return self

    @abstractmethod
    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Learn the values under some draws.

        The result for a draw is a function of the draw and its seed.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: of the randomness of each draw.

        Returns:
            What is needed to answer :meth:`q`. A draw with a number in it that is not
            finite has failed.
        """

    @abstractmethod
    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """Give action values.

        Args:
            tensors: as learned, of `B` draws.
            s: states, `(m, ...)`.

        Returns:
            Mean and variance, `(B, m, A)`.
        """


class TabularBackend(ValueBackend):
    """Exact values of problems whose states can be listed. Use it wherever it fits.

    Args:
        dynamics: transitions for draws of the parameters, `(B, P)`.
        reward: expected reward, broadcasting with `(S, A)`.
        arrival: reward for the state that is reached, `(S,)`.
        solver: value iteration, with its discount.
        index: numbers of states, `(m,)`; left out, states are numbers already.

    Example:
        >>> from pyro_geo.planning.tabular import MatrixDynamics
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> def moves(theta):  # the second action moves with probability theta
        ...     p = theta[:, :, None, None]
        ...     return MatrixDynamics(
        ...         torch.cat(
        ...             [
        ...                 torch.eye(2) * torch.ones_like(p),
        ...                 p * swap + (1 - p) * torch.eye(2),
        ...             ],
        ...             1,
        ...         )
        ...     )
        >>> backend = TabularBackend(moves, arrival=torch.tensor([0.0, 1.0]))
        >>> learned = backend.learn(torch.tensor([[0.2], [0.9]]), [0, 1])
        >>> backend.q(learned.tensors, torch.tensor([0]))[0].shape
        torch.Size([2, 1, 2])
    """

    def __init__(
        self,
        dynamics: Callable[[Tensor], TabularDynamics],
        *,
        reward: Tensor | float = 0.0,
        arrival: Tensor | None = None,
        solver: TabularVI | None = None,
        index: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.dynamics, self.reward, self.arrival = dynamics, reward, arrival
        self.solver = TabularVI() if solver is None else solver
        self.index, self.discount = index, self.solver.discount

    @classmethod
    def of_network(
        cls,
        problem: NetworkControl,
        *,
        horizon: int | None = None,
        tolerance: float = 1e-6,
    ) -> TabularBackend:
        """Make the backend of a Boolean network with unknown rule entries.

        Args:
            problem: the network, its actions and costs.
            horizon: number of actions that are looked ahead. Left out: without end.
            tolerance: of the error bound.

        Returns:
            The backend; states are rows of bits, or their numbers.
        """
        solver = TabularVI(
            discount=problem.discount, horizon=horizon, tolerance=tolerance
        )
        return cls(
            problem.dynamics,
            reward=problem.action_reward,
            arrival=problem.arrival_reward,
            solver=solver,
            index=_of_bits,
        )

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Solve all draws.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: not used.

        Returns:
            Action values `(B, S, A)` and the bound of their error.
        """
        dynamics = self.dynamics(theta)
        found = self.solver.solve(dynamics, self.reward, arrival=self.arrival)
        q = found.action_values.expand(len(theta), -1, -1)
        return Learned({"q": q}, {"error": found.error.expand(len(theta))})

    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """Look action values up.

        Args:
            tensors: as learned.
            s: states, `(m, ...)`.

        Returns:
            Mean `(B, m, A)`, and variances, which are zero.
        """
        rows = s if self.index is None else self.index(s)
        mean = tensors["q"][:, rows.long()]
        return mean, torch.zeros_like(mean)


class ExactValues(ValueBackend):
    """Values by a function of the user's, a formula say.

    Args:
        values: `values(theta, s)` for `theta` `(B, P)` and `s` `(m, ...)`: action
            values `(B, m, A)`, or a pair of them and their variances.
        discount: of the rewards.

    Example:
        >>> plain = ExactValues(lambda theta, s: theta[:, None, :] * s[:, None])
        >>> learned = plain.learn(torch.ones(3, 2), [0, 1, 2])
        >>> plain.q(learned.tensors, torch.zeros(4))[0].shape
        torch.Size([3, 4, 2])
    """

    def __init__(
        self,
        values: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]],
        discount: float = 0.95,
    ) -> None:
        check_number("discount", discount, 0.0, 1.0)
        self.values, self.discount = values, discount

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Keep the draws.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: not used.

        Returns:
            The draws.
        """
        return Learned({"theta": theta}, {})

    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """Compute action values.

        Args:
            tensors: as learned.
            s: states, `(m, ...)`.

        Returns:
            Mean and variance, `(B, m, A)`.
        """
        found: Any = self.values(tensors["theta"], s)
        return found if isinstance(found, tuple) else (found, torch.zeros_like(found))


def _of_bits(s: Tensor) -> Tensor:
    from pyro_geo.planning.boolean_network.hypercube import state_index

    return s if s.dim() < 2 else state_index(s)
