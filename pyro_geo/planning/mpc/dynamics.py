"""What a planner needs of dynamics, and a plant as such dynamics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check, check_shape
from pyro_geo.density.ladder import Rung
from pyro_geo.errors import BoundsError, UnsupportedError
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.draws import Pool

__all__ = ["Box", "Dynamics", "PlantDynamics", "box_of"]


class Box(NamedTuple):
    """Bounds of an action.

    Attributes:
        lower: `(m,)`.
        upper: `(m,)`, above `lower`.
        shape: of an action as the environment takes it; `m` is its product.
    """

    lower: Tensor
    upper: Tensor
    shape: tuple[int, ...]


def box_of(space: Any, lower: Any = None, upper: Any = None) -> Box:
    """Take the bounds of a Gymnasium space, or two bounds.

    Args:
        space: a `Box` of Gymnasium, or None.
        lower: lower bounds, a number or `(m,)`, where there is no space.
        upper: upper bounds.

    Returns:
        The bounds, in double precision.

    Raises:
        UnsupportedError: the space is no box.
        BoundsError: bounds cross or are not finite.

    Example:
        >>> box_of(None, [-1.0, 0.0], [1.0, 2.0]).upper.tolist()
        [1.0, 2.0]
    """
    if space is not None:
        if not (hasattr(space, "low") and hasattr(space, "high")):
            raise UnsupportedError(
                "actions are not numbers in a box",
                where="argument action_space",
                found=repr(space),
                expected="a gymnasium.spaces.Box",
                todo="Use BayesController where the actions can be listed.",
            )
        lower, upper = space.low, space.high
    low, high = torch.broadcast_tensors(
        torch.as_tensor(lower, dtype=torch.float64),
        torch.as_tensor(upper, dtype=torch.float64),
    )
    shape = tuple(low.shape)
    low, high = low.reshape(-1), high.reshape(-1)
    good = low.isfinite() & high.isfinite() & (low < high)
    if not bool(good.all()):
        i = int((~good).nonzero()[0])
        raise BoundsError(
            "no box of actions",
            where=f"bounds of action number {i}",
            found=f"[{float(low[i]):g}, {float(high[i]):g}]",
            expected="finite bounds, the lower one below the upper one",
            todo="Swap them, or give an action that is unbounded limits of its own.",
        )
    return Box(low.clone(), high.clone(), shape)


class Dynamics(Made, ABC):
    """Dynamics with draws of what is unknown, all of them simulated at once.

    Nothing is random inside: the noise of a step is an argument, so that all candidate
    plans meet the same noise.

    Attributes:
        state_dim: numbers in a state, `n`.
        noise_dim: numbers of noise that a step takes, `k`.
        box: bounds of an action; None where the planner has to be given them.
        rung: the rung of the ladder that a step runs on unless it is compiled.
        state_names: names of the numbers of a state, for pictures.
    """

    state_dim: int
    noise_dim: int
    box: Box | None = None
    rung: Rung = "mapped"
    state_names: tuple[str, ...] = ()

    @abstractmethod
    def leaves(self, pool: Pool, rows: Tensor) -> tuple[Tensor, ...]:
        """Take draws out of a pool, as tensors that :meth:`step` gets.

        Args:
            pool: draws of what is unknown.
            rows: which, `(S,)`.

        Returns:
            Tensors whose first axis is that of the draws, `(S, ...)`.
        """

    @abstractmethod
    def step(
        self, draws: tuple[Tensor, ...], s: Tensor, a: Tensor, noise: Tensor
    ) -> Tensor:
        """Make one step of every candidate under every draw.

        Args:
            draws: as :meth:`leaves` gives them.
            s: states, `(K, S, n)`.
            a: actions in their own units, `(K, 1, m)`.
            noise: of the step under each draw, `(S, k)`.

        Returns:
            The next states, `(K, S, n)`.
        """

    @abstractmethod
    def cost(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Cost of steps.

        Args:
            s: states, `(K, S, n)`.
            a: actions, `(K, 1, m)`.
            s_next: the states that followed.

        Returns:
            Costs, `(K, S)` or what broadcasts to it.
        """

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw noise of steps: standard normal numbers.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            Noise, `(*shape, k)`.
        """
        dtype = torch.get_default_dtype()
        return torch.randn(*shape, self.noise_dim, generator=generator, dtype=dtype)


class PlantDynamics(Dynamics):
    """A plant as a planner simulates it: its cost is minus its reward.

    Args:
        plant: with actions that are numbers.

    Raises:
        UnsupportedError: the plant lists its actions.

    Example:
        >>> from pyro_geo.planning.environments import Pendulum
        >>> PlantDynamics(Pendulum()).box.upper
        tensor([2.], dtype=torch.float64)
    """

    def __init__(self, plant: Plant) -> None:
        if plant.actions is not None or plant.action_dim < 1:
            raise UnsupportedError(
                "the plant lists its actions",
                where="argument dynamics",
                found=type(plant).__name__,
                expected="actions that are numbers within a limit",
                todo="Use BayesController, which chooses from a list.",
            )
        self.plant = plant
        self.state_dim, self.noise_dim = plant.state_dim, plant.noise_dim
        limit = torch.full((plant.action_dim,), float(plant.limit))
        self.box = box_of(None, -limit, limit)

    def leaves(self, pool: Pool, rows: Tensor) -> tuple[Tensor, ...]:
        """Take rows of parameters.

        Args:
            pool: draws of the parameters, as one tensor or by name.
            rows: which, `(S,)`.

        Returns:
            The parameters, `(S, P)`.
        """
        theta = pool.values
        if isinstance(theta, Mapping):
            theta = self._columns(theta)
        wanted = len(self.plant.parameters)
        good = theta.dim() == 2 and theta.shape[1] == wanted
        check_shape("draws", theta.shape, f"(M, {wanted})", good)
        return (theta[rows],)

    def _columns(self, sites: Mapping[str, Tensor]) -> Tensor:
        names = self.plant.parameters
        missing = [name for name in names if name not in sites]
        check(
            not missing,
            "draws",
            f"sites {sorted(sites)}",
            f"a site for each of the parameters {list(names)}",
        )
        return torch.stack(
            [sites[name].reshape(len(sites[name])) for name in names], -1
        )

    def step(
        self, draws: tuple[Tensor, ...], s: Tensor, a: Tensor, noise: Tensor
    ) -> Tensor:
        """Make one step; see :meth:`Dynamics.step`."""
        return self.plant.simulate(draws[0], s, a, noise)

    def cost(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Minus the reward."""
        return -self.plant.reward(s, a, s_next)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw noise as the plant has it; see :meth:`Dynamics.draw_noise`."""
        return self.plant.draw_noise(shape, generator)
