r"""A boat that passes a reef on one of two sides: good plans whose average is bad."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.planning.environments.plant import Plant

__all__ = ["TwoRoutes"]

_GOAL, _REEF = 8.0, 4.0


class TwoRoutes(Plant):
    r"""A point in the plane with a reef on the straight line to its goal.

    .. math:: x' = x + p\, a + (0, c)^\top + \sigma w, \qquad
        r = -\Big( |x' - g| + h\, e^{-(x'_1 - 4)^2 / 2 - (x'_2 / 3)^4}
        + \tfrac1{10} |a|^2 \Big), \quad g = (8, 0)

    Plans that pass above the reef are good, and so are those that pass below. A planner
    that averages good candidates runs across it. Parameters are the strength of the
    engine `push`, :math:`p`, and the `current`, :math:`c`. The constants are derived.

    Args:
        push: strength of the engine.
        current: drift aside, at each step.
        height: of the reef, in units of the cost.
        noise: standard deviation :math:`\sigma` of the position.
        limit: largest size of each number of an action.

    Example:
        >>> plant = TwoRoutes()
        >>> s, a = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])
        >>> plant.simulate(plant.theta, s, a, torch.zeros(2))
        tensor([4.0000, 0.1000])
    """

    parameters = ("push", "current")
    state_dim, action_dim, noise_dim = 2, 2, 2

    def __init__(
        self,
        push: float = 1.0,
        current: float = 0.1,
        *,
        height: float = 12.0,
        noise: float = 0.0,
        limit: float = 1.0,
    ) -> None:
        check_number("push", push, strict=True)
        check_number("current", current, -limit)
        check_number("height", height)
        check_number("noise", noise)
        check_number("limit", limit, strict=True)
        self.push, self.current, self.height = push, current, height
        self.noise, self.limit = noise, limit

    @property
    def theta(self) -> Tensor:
        """Push and current that the plant was made with, `(2,)`."""
        return torch.tensor([self.push, self.current])

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: push and current, `(..., 2)`.
            s: positions, `(..., 2)`.
            a: pushes, cut at the limit, `(..., 2)`.
            noise: standard normal numbers, `(..., 2)`.

        Returns:
            The next positions, `(..., 2)`.
        """
        push, current = theta[..., :1], theta[..., 1]
        drift = torch.stack([torch.zeros_like(current), current], -1)
        moved = push * a.clamp(-self.limit, self.limit) + drift
        return s + moved + self.noise * noise

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Minus the way to the goal, what the reef costs, and the price of the push.

        Args:
            s: not used.
            a: pushes, `(..., 2)`.
            s_next: the positions reached, `(..., 2)`.

        Returns:
            Rewards, `(...)`.
        """
        x, y = s_next.unbind(-1)
        far = torch.hypot(x - _GOAL, y)
        reef = torch.exp(-((x - _REEF) ** 2) / 2 - (y / 3) ** 4)
        return -(far + self.height * reef + 0.1 * a.square().sum(-1))

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first positions, near the origin.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            Positions, `(*shape, 2)`.
        """
        dtype = torch.get_default_dtype()
        return 0.2 * torch.randn(*shape, 2, generator=generator, dtype=dtype)
