"""What a plant is: unknown dynamics that are simulated for many draws at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyro_geo._showing import Made

__all__ = ["Plant"]


class Plant(Made, ABC):
    """Dynamics with unknown parameters, pure functions of tensors.

    All leading axes broadcast: draws of the parameters, states, actions, noise.
    Nothing is random inside, so the same noise gives the same step, and gradients pass
    wherever the plant is smooth.

    Attributes:
        parameters: names of the unknown parameters, the columns of `theta`.
        state_dim: numbers in a state.
        action_dim: numbers in an action; 0 where an action is a number from 0.
        noise_dim: numbers of noise that a step takes.
        actions: all actions where they can be listed, `(A,)` or `(A, action_dim)`;
            otherwise None, and each number of an action is in `[-limit, limit]`.
        limit: largest size of a number of an action.
    """

    parameters: tuple[str, ...]
    state_dim: int
    action_dim: int
    noise_dim: int
    actions: Tensor | None = None
    limit: float = 1.0

    @abstractmethod
    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: parameters, `(..., P)`.
            s: states, `(..., state_dim)`.
            a: actions, `(..., action_dim)`, or `(...)` where they are numbers.
            noise: as :meth:`draw_noise` gives it, `(..., noise_dim)`.

        Returns:
            The next states, `(..., state_dim)`.
        """

    @abstractmethod
    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Reward of steps.

        Args:
            s: states, `(..., state_dim)`.
            a: actions.
            s_next: the states that followed, `(..., state_dim)`.

        Returns:
            Rewards, `(...)`.
        """

    @abstractmethod
    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first states.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            States, `(*shape, state_dim)`.
        """

    @property
    @abstractmethod
    def theta(self) -> Tensor:
        """The parameters that the plant was made with, `(P,)`."""

    @property
    def normal_noise(self) -> bool:
        """Whether noise is standard normal, so that it may have a quadrature."""
        return type(self).draw_noise is Plant.draw_noise

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise of steps: standard normal numbers unless a plant says more.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            Noise, `(*shape, noise_dim)`.
        """
        dtype = torch.get_default_dtype()
        return torch.randn(*shape, self.noise_dim, generator=generator, dtype=dtype)
