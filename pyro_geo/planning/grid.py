"""Values on a grid of states, for plants of one, two or three numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.planning.backends import Learned
from pyro_geo.planning.gptd_values import PlantValues, successor_noise
from pyro_geo.planning.tabular import TabularDynamics, TabularVI

__all__ = ["GridBackend"]

Coordinates = Callable[[Tensor], Tensor]


class GridBackend(PlantValues):
    r"""Value iteration on a grid, with linear interpolation between its points.

    .. math:: Q(x, a) = \sum_j w_j \Big[ r(x, a, x'_j)
        + \gamma \max_{a'} \sum_c b_c(x'_j)\, Q(x_c, a') \Big]

    The weights :math:`b_c` are those of the corners of the cell that holds a successor.
    States beyond the grid count as its edge. With a fine grid the values are exact for
    all practical purposes; the work grows with the number of points, so use it for up
    to three coordinates.

    Args:
        axes: points of each coordinate, ascending and at equal distances.
        coordinates: of a state, `(..., d)` of `(..., n)`; the state itself when left
            out.
        states: of coordinates, the inverse.
        periodic: numbers of the coordinates that go round: the first point follows the
            last.
        successors: nodes or draws of the noise.
        discount: of the rewards.
        num_actions: levels of each number of an action, where the plant lists none.
        tolerance: of the error bound of value iteration.

    References:
        Gordon (1995), Stable function approximation in dynamic programming, ICML.

    Example:
        >>> from pyro_geo.planning.environments import unknown_sign
        >>> backend = GridBackend([torch.linspace(-4, 4, 81)]).bound(unknown_sign())
        >>> learned = backend.learn(torch.tensor([[0.9, 0.7]]), [0])
        >>> mean, _ = backend.q(learned.tensors, torch.tensor([[1.0]]))
        >>> backend.grid[mean[0, 0].argmax()].item()
        -1.0
    """

    def __init__(
        self,
        axes: Sequence[Tensor],
        *,
        coordinates: Coordinates | None = None,
        states: Coordinates | None = None,
        periodic: Sequence[int] = (),
        successors: int = 3,
        discount: float = 0.95,
        num_actions: int = 9,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__(discount=discount, num_actions=num_actions)
        check_count("successors", successors)
        for axis in axes:
            good = axis.dim() == 1 and len(axis) > 1
            gaps = axis.diff() if good else axis
            even = good and bool((gaps > 0).all())
            even = even and bool((gaps - gaps.mean()).abs().max() < 1e-4 * gaps.mean())
            check(even, "axes", axis, "ascending points at equal distances")
        inside = all(0 <= number < len(axes) for number in periodic)
        check(inside, "periodic", periodic, f"numbers from 0 to {len(axes) - 1}")
        self.axes = [axis.double() for axis in axes]
        self.coordinates, self.states = coordinates, states
        self.periodic, self.successors = tuple(periodic), successors
        self.solver = TabularVI(discount=discount, tolerance=tolerance)

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Solve all draws.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: of the noise of each draw, where it has no quadrature.

        Returns:
            Action values at the points, `(B, S, A)`, and the bound of their error.
        """
        plant, theta = self.simulator, theta.double()
        points = torch.cartesian_prod(*self.axes).reshape(-1, len(self.axes))
        s = points if self.states is None else self.states(points)
        noise, weight = successor_noise(plant, self.successors, seeds[0])
        wide, own = s[:, None, None], theta[:, None, None, None]
        a = self.grid[:, None]
        ahead = plant.simulate(own, wide, a, noise)  # (B, S, A, J, n)
        reward = plant.reward(wide, a, ahead).double()
        reward = (weight * reward.expand(ahead.shape[:-1])).sum(-1)
        index, share = self._corners(ahead)
        dynamics = _GridDynamics(index, share * weight[:, None], len(points))
        found = self.solver.solve(dynamics, reward)
        return Learned({"q": found.action_values}, {"error": found.error})

    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate action values.

        Args:
            tensors: as learned.
            s: states, `(m, n)`.

        Returns:
            Mean `(B, m, A)`, and variances, which are zero.
        """
        index, share = self._corners(s.double())
        corners = tensors["q"][:, index]  # (B, m, C, A)
        mean = (share[..., None] * corners).sum(-2)
        return mean, torch.zeros_like(mean)

    def _corners(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Corners of the cells of states, `(..., C)`, and their weights."""
        x = s if self.coordinates is None else self.coordinates(s)
        low: list[Tensor] = []
        part: list[Tensor] = []
        for number, axis in enumerate(self.axes):
            place = (x[..., number] - axis[0]) / (axis[1] - axis[0])
            if number in self.periodic:
                place = place % len(axis)
                cell = place.floor().clamp(max=len(axis) - 1)
            else:
                place = place.clamp(0, len(axis) - 1)
                cell = place.floor().clamp(max=len(axis) - 2)
            low.append(cell.nan_to_num().long())
            part.append(place - cell)
        index, share = [], []
        for corner in itertools.product((0, 1), repeat=len(self.axes)):
            flat, weight = torch.zeros_like(low[0]), torch.ones_like(part[0])
            for number, up in enumerate(corner):
                size = len(self.axes[number])
                flat = flat * size + (low[number] + up) % size
                weight = weight * (part[number] if up else 1 - part[number])
            index.append(flat)
            share.append(weight)
        return torch.stack(index, -1), torch.stack(share, -1)


class _GridDynamics(TabularDynamics):
    """Transitions to corners of cells, `(B, S, A, J, C)`."""

    def __init__(self, index: Tensor, share: Tensor, count: int) -> None:
        self.num_states, self.num_actions = count, index.shape[2]
        self.batch_shape, self.dtype = index.shape[:1], share.dtype
        shape = *index.shape[:3], -1
        self._index = index.reshape(len(index), -1)
        self._share = share.expand(index.shape).reshape(shape)

    def expect(self, values: Tensor) -> Tensor:
        """Expectation of a function of the next state, `(B, S, A)`."""
        found = values.gather(1, self._index).reshape(self._share.shape)
        return (self._share * found).sum(-1)
