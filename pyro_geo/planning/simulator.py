"""A plant made of functions: a simulator, its rewards and its first states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.planning.environments import Plant

__all__ = ["Simulator"]

Simulate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
Sample = Callable[[tuple[int, ...], torch.Generator], Tensor]


class Simulator(Plant):
    """Dynamics given as functions; all of them take any leading axes.

    Args:
        simulate: `simulate(theta, s, a, noise)`, the next states, `(..., n)`.
        reward: `reward(s, a, s_next)`, `(...)`.
        initial: `initial(shape, generator)`, first states, `(*shape, n)`.
        parameters: names of the unknown parameters.
        actions: all actions, `(A, m)`, or their numbers, `(A,)`; left out, each number
            of an action is in `[-limit, limit]`.
        action_dim: numbers in an action, where they are not listed.
        limit: largest size of a number of an action.
        noise: `noise(shape, generator)`, `(*shape, k)`; standard normal numbers when
            left out.
        noise_dim: numbers of noise that a step takes, `k`.
        theta: the true parameters, where they are known, `(P,)`.

    Example:
        >>> drift = Simulator(
        ...     lambda theta, s, a, noise: s + theta * a + 0.1 * noise,
        ...     lambda s, a, s_next: -s_next.square().sum(-1),
        ...     lambda shape, generator: torch.ones(*shape, 1),
        ...     parameters=["push"],
        ...     actions=torch.tensor([[-1.0], [0.0], [1.0]]),
        ... )
        >>> one = torch.ones(1)
        >>> drift.simulate(one, one, drift.actions, torch.zeros(1)).flatten()
        tensor([0., 1., 2.])
    """

    def __init__(
        self,
        simulate: Simulate,
        reward: Reward,
        initial: Sample,
        *,
        parameters: Sequence[str],
        actions: Tensor | None = None,
        action_dim: int = 1,
        limit: float = 1.0,
        noise: Sample | None = None,
        noise_dim: int = 1,
        theta: Tensor | None = None,
    ) -> None:
        check_count("action_dim", action_dim, 0)
        check_count("noise_dim", noise_dim)
        check_number("limit", limit, strict=True)
        self.parameters = tuple(parameters)
        self._simulate, self._reward, self._initial = simulate, reward, initial
        if actions is not None:
            good = actions.dim() in (1, 2) and len(actions) > 1
            check_shape("actions", actions.shape, "(A,) or (A, m)", good)
            action_dim = 0 if actions.dim() == 1 else actions.shape[1]
        self.actions, self.action_dim, self.limit = actions, action_dim, limit
        self._noise, self.noise_dim = noise, noise_dim
        self._theta = theta
        first = initial((2,), torch.Generator().manual_seed(0))
        check_shape(
            "initial", first.shape, "(2, n)", first.dim() == 2 and len(first) == 2
        )
        self.state_dim = first.shape[1]

    @property
    def theta(self) -> Tensor:
        """The true parameters, `(P,)`."""
        check(self._theta is not None, "theta", None, "the true parameters")
        assert self._theta is not None
        return self._theta

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: parameters, `(..., P)`.
            s: states, `(..., n)`.
            a: actions.
            noise: `(..., k)`.

        Returns:
            The next states, `(..., n)`.
        """
        return self._simulate(theta, s, a, noise)

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Reward of steps.

        Args:
            s: states, `(..., n)`.
            a: actions.
            s_next: the states that followed, `(..., n)`.

        Returns:
            Rewards, `(...)`.
        """
        return self._reward(s, a, s_next)

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first states.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            States, `(*shape, n)`.
        """
        return self._initial(shape, generator)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise of steps.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            Noise, `(*shape, k)`.
        """
        if self._noise is not None:
            return self._noise(shape, generator)
        return super().draw_noise(shape, generator)

    @property
    def normal_noise(self) -> bool:
        """Whether noise is standard normal, so that it may have a quadrature."""
        return self._noise is None
