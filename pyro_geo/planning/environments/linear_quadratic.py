r"""A linear plant with quadratic costs, whose optimal control is known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.planning.environments.plant import Plant

__all__ = ["LinearQuadratic", "unknown_sign"]

_DOUBLINGS = 60


class LinearQuadratic(Plant):
    r"""Linear dynamics, some of whose coefficients are unknown, and quadratic costs.

    .. math:: s' = A s + B a + C w, \qquad r = -(s^\top Q s + a^\top R a), \qquad
        w \sim N(0, I)

    Args:
        A: of the state, `(n, n)`.
        B: of the action, `(n, m)`.
        state_cost: the matrix `Q`, `(n, n)`.
        action_cost: the matrix `R`, positive-definite, `(m, m)`.
        noise: the matrix `C`, `(n, k)`. Left out: no noise.
        unknown: entries of the matrix :math:`[A, B]`, as pairs of a row and a column,
            that `theta` holds. Left out: all, row by row.
        start_scale: standard deviation of the first states.
        limit: largest size of each number of an action.
        actions: the actions allowed, `(A, m)`. Left out: all within the limit.

    Example:
        >>> plant = LinearQuadratic.double_integrator()
        >>> gain, _ = plant.optimal(discount=0.95)
        >>> gain
        tensor([[6.6015, 4.5414]])
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        *,
        state_cost: Tensor,
        action_cost: Tensor,
        noise: Tensor | None = None,
        unknown: Sequence[tuple[int, int]] | None = None,
        start_scale: float = 1.0,
        limit: float = 10.0,
        actions: Tensor | None = None,
    ) -> None:
        n = A.shape[-1] if A.dim() == 2 else 0
        check_shape("A", A.shape, "(n, n)", good=n > 0 and A.shape[0] == n)
        check_shape("B", B.shape, f"({n}, m)", good=B.dim() == 2 and len(B) == n)
        m = B.shape[1]
        check_shape("state_cost", state_cost.shape, (n, n))
        check_shape("action_cost", action_cost.shape, (m, m))
        noise = A.new_zeros(n, 1) if noise is None else noise
        good = noise.dim() == 2 and len(noise) == n
        check_shape("noise", noise.shape, f"({n}, k)", good=good)
        every = [(i, j) for i in range(n) for j in range(n + m)]
        entries = every if unknown is None else [(int(i), int(j)) for i, j in unknown]
        inside = set(entries) <= set(every) and len(set(entries)) == len(entries)
        check(
            inside, "unknown", unknown, f"distinct entries of a ({n}, {n + m}) matrix"
        )
        check_number("start_scale", start_scale)
        check_number("limit", limit, strict=True)
        if actions is not None:
            good = actions.dim() == 2 and actions.shape[1] == m
            check_shape("actions", actions.shape, f"(A, {m})", good)
        self._matrix = torch.cat([A, B], 1)
        self._places = torch.tensor([i * (n + m) + j for i, j in entries])
        self.state_cost, self.action_cost, self.noise = state_cost, action_cost, noise
        self.state_dim, self.action_dim, self.noise_dim = n, m, noise.shape[1]
        self.start_scale, self.limit, self.actions = start_scale, limit, actions
        self.parameters = tuple(
            f"A[{i},{j}]" if j < n else f"B[{i},{j - n}]" for i, j in entries
        )

    @classmethod
    def double_integrator(cls, noise: float = 0.0) -> LinearQuadratic:
        """A mass that a force pushes, in steps of a tenth of a second.

        Args:
            noise: standard deviation of the noise of the velocity.

        Returns:
            The plant; its two coefficients of the velocity's equation are unknown.
        """
        return cls(
            torch.tensor([[1.0, 0.1], [0.0, 1.0]]),
            torch.tensor([[0.0], [0.1]]),
            state_cost=torch.tensor([1.0, 0.1]).diag(),
            action_cost=torch.tensor([[0.01]]),
            noise=torch.tensor([[0.0], [noise]]),
            unknown=[(1, 1), (1, 2)],
        )

    @property
    def theta(self) -> Tensor:
        """The coefficients that the plant was made with, `(P,)`."""
        return self._matrix.flatten()[self._places]

    def matrices(self, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Matrices of the dynamics.

        Args:
            theta: unknown coefficients, `(..., P)`. Left out: :attr:`theta`.

        Returns:
            `A` and `B`, `(..., n, n)` and `(..., n, m)`.
        """
        both = self._matrix
        if theta is not None:
            check_shape("theta", theta.shape[-1:], (len(self.parameters),))
            flat = both.flatten().to(theta).expand(*theta.shape[:-1], -1)
            places = self._places.expand(theta.shape)
            both = flat.scatter(-1, places, theta)
            both = both.reshape(*theta.shape[:-1], *self._matrix.shape)
        return both[..., : self.state_dim], both[..., self.state_dim :]

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: unknown coefficients, `(..., P)`.
            s: states, `(..., n)`.
            a: actions, `(..., m)`.
            noise: standard normal numbers, `(..., k)`.

        Returns:
            The next states, `(..., n)`.
        """
        A, B = self.matrices(theta)
        moved = (A @ s[..., None] + B @ a[..., None])[..., 0]
        return moved + noise @ self.noise.to(noise).mT

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Minus the quadratic cost of the state and the action.

        Args:
            s: states, `(..., n)`.
            a: actions, `(..., m)`.
            s_next: not used.

        Returns:
            Rewards, `(...)`.
        """
        of_state = ((s @ self.state_cost.to(s)) * s).sum(-1)
        return -of_state - ((a @ self.action_cost.to(a)) * a).sum(-1)

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first states, normal around zero.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            States, `(*shape, n)`.
        """
        dtype = self._matrix.dtype
        drawn = torch.randn(*shape, self.state_dim, generator=generator, dtype=dtype)
        return self.start_scale * drawn

    def optimal(
        self, theta: Tensor | None = None, *, discount: float
    ) -> tuple[Tensor, Tensor]:
        r"""Optimal control of known plants, without a limit of the actions.

        .. math:: a = -K s, \qquad V(s) = -s^\top P s - \frac{\gamma}{1 - \gamma}
            \mathrm{tr}(P C C^\top)

        The Riccati equation is solved by doubling, for all draws at once.

        Args:
            theta: unknown coefficients, `(..., P)`. Left out: :attr:`theta`.
            discount: of the rewards, from 0 to below 1.

        Returns:
            The gain `K`, `(..., m, n)`, and the matrix `P`, `(..., n, n)`.

        References:
            Chu, Fan and Lin (2004), A structure-preserving doubling algorithm for
            periodic discrete-time algebraic Riccati equations.
        """
        check_number("discount", discount, 0.0, 1.0)
        A, B = (discount**0.5 * x for x in self.matrices(theta))
        R, eye = self.action_cost.to(A), torch.eye(self.state_dim).to(A)
        G, P, power = B @ torch.linalg.solve(R, B.mT), self.state_cost.to(A), A
        for _ in range(_DOUBLINGS):
            inverse = torch.linalg.solve(eye + G @ P, torch.cat([power, G], -1))
            left, right = inverse.split(self.state_dim, -1)
            step = power.mT @ P @ left
            P, G = P + 0.5 * (step + step.mT), G + power @ right @ power.mT
            power = power @ left
            if float(power.detach().abs().max()) < torch.finfo(A.dtype).eps ** 2:
                break
        return torch.linalg.solve(R + B.mT @ P @ B, B.mT @ P @ A), P


def unknown_sign(noise: float = 0.1, num_actions: int = 9) -> LinearQuadratic:
    r"""A scalar plant whose actions may push either way.

    .. math:: s' = \theta_1 s + \theta_2 a + \sigma w, \qquad r = -(s^2 + 0.1 a^2)

    A controller that does not know the sign of :math:`\theta_2` must try an action to
    learn it. Actions are a grid from -2 to 2. The constants are derived.

    Args:
        noise: standard deviation :math:`\sigma`.
        num_actions: actions on the grid, odd so that zero is one of them.

    Returns:
        The plant, with the parameters :math:`\theta_1 = 0.95` and
        :math:`\theta_2 = -0.7` unless others are passed to it.

    Example:
        >>> plant = unknown_sign()
        >>> plant.parameters, plant.actions.shape
        (('A[0,0]', 'B[0,0]'), torch.Size([9, 1]))
    """
    check_number("noise", noise)
    odd = isinstance(num_actions, int) and num_actions % 2 == 1
    check(odd, "num_actions", num_actions, "an odd integer")
    return LinearQuadratic(
        torch.tensor([[0.95]]),
        torch.tensor([[-0.7]]),
        state_cost=torch.eye(1),
        action_cost=0.1 * torch.eye(1),
        noise=torch.tensor([[noise]]),
        start_scale=2.0,
        limit=2.0,
        actions=torch.linspace(-2.0, 2.0, num_actions)[:, None],
    )
