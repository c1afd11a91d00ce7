r"""Exact action values of problems whose states can be listed.

Use them wherever the states fit in memory: they have no error that matters, and many
draws of unknown dynamics are solved in one batch.
"""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.errors import ConvergenceWarning, DiscountError, NonFiniteDataError

__all__ = ["MatrixDynamics", "TabularDynamics", "TabularVI", "TabularValues"]

LARGEST = 2**16  # states


class TabularDynamics(Made, ABC):
    """Transitions between listed states, for a batch of draws of what is unknown.

    Attributes:
        num_states: number of states `S`.
        num_actions: number of actions `A`.
        batch_shape: of the draws.
        dtype: least precise type that values are computed in.
    """

    num_states: int
    num_actions: int
    batch_shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def expect(self, values: Tensor) -> Tensor:
        """Expectation of a function of the next state.

        Args:
            values: the function, `(*batch_shape, S)`.

        Returns:
            Its expectation for each state and action, `(*batch_shape, S, A)`.
        """

    def best(self, values: Tensor, reward: Tensor) -> Tensor:
        r"""Value of the best action, :math:`\max_a r(s, a) + E\, v(s')`.

        Override it where there is a quicker way than to list all actions.

        Args:
            values: the function :math:`v`, `(*batch_shape, S)`.
            reward: broadcasting with `(*batch_shape, S, A)`.

        Returns:
            The largest value, `(*batch_shape, S)`.
        """
        return (reward + self.expect(values)).amax(-1)


class MatrixDynamics(TabularDynamics):
    """Transitions given by matrices.

    Args:
        transition: probability of each next state, last, given the state and the
            action, `(..., A, S, S)`.

    Example:
        >>> swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> MatrixDynamics(swap).expect(torch.tensor([0.0, 5.0]))
        tensor([[0., 5.],
                [5., 0.]])
    """

    def __init__(self, transition: Tensor) -> None:
        shape = transition.shape
        good = transition.dim() >= 3 and shape[-1] == shape[-2]
        check_shape("transition", shape, "(..., A, S, S)", good)
        total = transition.sum(-1)
        tolerance = 1e-4 if transition.dtype == torch.float32 else 1e-8
        sums = bool((transition >= 0).all() and ((total - 1).abs() < tolerance).all())
        check(sums, "transition", "other rows", "rows of probabilities that sum to one")
        self.transition = transition
        self.num_actions, self.num_states = shape[-3], shape[-1]
        self.batch_shape, self.dtype = shape[:-3], transition.dtype

    def expect(self, values: Tensor) -> Tensor:
        """Expectation of a function of the next state.

        Args:
            values: the function, `(*batch_shape, S)`.

        Returns:
            Its expectation for each state and action, `(*batch_shape, S, A)`.
        """
        transition = self.transition.to(values)
        return (transition @ values[..., None, :, None])[..., 0].mT


class TabularValues(NamedTuple):
    """Optimal values and actions of a batch of draws.

    Attributes:
        action_values: value of each action in each state, `(..., S, A)`.
        values: of the best action, `(..., S)`.
        policy: number of the best action, the first of several, `(..., S)`.
        error: bound of the error of `action_values`, `(...)`; zero for a finite
            horizon. Rounding is not counted.
        sweeps: sweeps over all states that were made.
    """

    action_values: Tensor
    values: Tensor
    policy: Tensor
    error: Tensor
    sweeps: int

    def q(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Action values in some states, in the form that value models have.

        Args:
            states: indices of states, `(m,)`.

        Returns:
            Mean and variance, `(..., m, A)`; the variance is the square of the error
            bound.

        Example:
            >>> stay = MatrixDynamics(torch.eye(2).expand(1, 2, 2))
            >>> solved = TabularVI(discount=0.5).solve(stay, torch.tensor([[1.0], [0]]))
            >>> solved.q(torch.tensor([0]))[0].shape
            torch.Size([1, 1])
        """
        mean = self.action_values[..., states, :]
        return mean, self.error.square()[..., None, None].expand(mean.shape)


class TabularVI(Made):
    r"""Value iteration over all states, for all draws at once.

    .. math:: Q(s, a) = r(s, a) + E[g(s') + \gamma \max_{a'} Q(s', a')]

    A sweep changes the values by amounts between :math:`l` and :math:`h`; the optimal
    values then lie between the new ones plus :math:`\gamma l / (1 - \gamma)` and plus
    :math:`\gamma h / (1 - \gamma)`. The sweeps end when these bounds meet, which is
    long before the values themselves stand still, and the middle is returned.

    Args:
        discount: the number :math:`\gamma`, from 0 to 1; 1 needs a horizon.
        horizon: number of actions left, after which nothing counts. Left out: without
            end.
        tolerance: of the error bound, in units of reward.
        max_sweeps: after which a run without end stops with a
            :class:`~pyro_geo.errors.ConvergenceWarning`.

    Raises:
        DiscountError: `discount` is outside its range, or 1 without a horizon.

    References:
        MacQueen (1966), A modified dynamic programming method for Markovian decision
        problems, Journal of Mathematical Analysis and Applications.

    Example:
        >>> forth = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> reward = torch.tensor([[0.0, -1.0], [2.0, 1.0]])
        >>> TabularVI(discount=0.5).solve(MatrixDynamics(forth), reward).policy
        tensor([0, 0])
    """

    def __init__(
        self,
        *,
        discount: float = 0.95,
        horizon: int | None = None,
        tolerance: float = 1e-8,
        max_sweeps: int = 100_000,
    ) -> None:
        check_count("horizon", horizon)
        check_count("max_sweeps", max_sweeps)
        check_number("tolerance", tolerance, strict=True)
        number = isinstance(discount, int | float) and 0 <= discount <= 1
        if not number or (discount == 1 and horizon is None):
            raise DiscountError(
                "wrong discount",
                where="argument discount",
                found=repr(discount),
                expected="a number from 0 to 1, below 1 without a horizon",
                todo="Lower it, or pass horizon=.",
            )
        self.discount, self.horizon = float(discount), horizon
        self.tolerance, self.max_sweeps = tolerance, max_sweeps

    def solve(
        self,
        dynamics: TabularDynamics,
        reward: Tensor | float = 0.0,
        *,
        arrival: Tensor | None = None,
        initial: Tensor | None = None,
    ) -> TabularValues:
        """Find the optimal values.

        Args:
            dynamics: transitions, for all draws.
            reward: expected reward :math:`r`, broadcasting with `(..., S, A)`.
            arrival: reward :math:`g` for the state that is reached, `(..., S)`.
            initial: values to start from, `(..., S)`, for instance those of a similar
                draw. With a horizon they are the values after the last step.

        Returns:
            Values, actions and a bound of the error.

        Example:
            >>> stay = MatrixDynamics(torch.eye(2).expand(3, 2, 2))
            >>> reward = torch.tensor([0.0, 1.0, 2.0])
            >>> TabularVI(discount=0.5).solve(stay, reward).values
            tensor([4., 4.])
        """
        problem = _Problem.of(dynamics, reward, arrival)
        return self._run(problem, initial, problem.best, lambda q: q.amax(-1))

    def evaluate(
        self,
        dynamics: TabularDynamics,
        policy: Tensor,
        reward: Tensor | float = 0.0,
        *,
        arrival: Tensor | None = None,
        initial: Tensor | None = None,
    ) -> TabularValues:
        """Find the values of given actions.

        Args:
            dynamics: transitions, for all draws.
            policy: number of the action in each state, `(..., S)`.
            reward: expected reward :math:`r`, broadcasting with `(..., S, A)`.
            arrival: reward :math:`g` for the state that is reached, `(..., S)`.
            initial: values to start from, `(..., S)`.

        Returns:
            The same as :meth:`solve`; `values` are those of `policy`, while the field
            `policy` holds the actions that improve on it.

        Example:
            >>> stay = MatrixDynamics(torch.eye(2).expand(3, 2, 2))
            >>> reward, first = torch.tensor([1.0, 0.0, 2.0]), torch.zeros(2).long()
            >>> TabularVI(discount=0.5).evaluate(stay, first, reward).values
            tensor([2., 2.])
        """
        problem = _Problem.of(dynamics, reward, arrival)
        good = policy.shape[-1:] == (dynamics.num_states,)
        check_shape("policy", policy.shape, f"(..., {dynamics.num_states})", good)
        index = policy.expand(problem.shape[:-1])[..., None]

        def choose(q: Tensor) -> Tensor:
            return q.gather(-1, index)[..., 0]

        def sweep(values: Tensor, discount: float) -> Tensor:
            return choose(problem.backup(values, discount))

        return self._run(problem, initial, sweep, choose)

    def _run(
        self,
        problem: _Problem,
        initial: Tensor | None,
        sweep: Callable[[Tensor, float], Tensor],
        choose: Callable[[Tensor], Tensor],
    ) -> TabularValues:
        values = problem.zeros()
        if initial is not None:
            check_shape("initial", initial.shape[-1:], values.shape[-1:])
            values = values + initial.to(values)
        gamma = self.discount
        if self.horizon is not None:
            for _ in range(self.horizon - 1):
                values = sweep(values, gamma)
            q = problem.backup(values, gamma)
            error = q.new_zeros(q.shape[:-2])
            return TabularValues(q, choose(q), q.argmax(-1), error, self.horizon)
        # what rounding leaves of the bounds: no sweep gets below it
        rounding = 8 * torch.finfo(values.dtype).eps
        sweeps, error = 0, values.new_full((), math.inf)
        far = gamma / (1 - gamma)
        while sweeps < self.max_sweeps:
            new = sweep(values, gamma)
            low, high = (new - values).aminmax(dim=-1)
            sweeps += 1
            error = 0.5 * far * (high - low)
            values = new + 0.5 * far * (high + low)[..., None]
            floor = rounding * far * values.abs().amax()
            if bool((error <= floor.clamp_min(self.tolerance)).all()):
                break
        else:
            self._warn(error)
        q = problem.backup(values, gamma)
        return TabularValues(q, choose(q), q.argmax(-1), gamma * error, sweeps)

    def _warn(self, error: Tensor) -> None:
        warnings.warn(
            ConvergenceWarning(
                "value iteration stopped early",
                where=f"after {self.max_sweeps} sweeps",
                found=f"an error bound of {float(error.max()):.3g}",
                expected=f"at most {self.tolerance:g}",
                todo="Raise max_sweeps, or tolerance, or lower the discount.",
            ),
            stacklevel=4,
        )


class _Problem(NamedTuple):
    """Transitions and rewards that fit together."""

    dynamics: TabularDynamics
    reward: Tensor
    arrival: Tensor | None
    shape: torch.Size  # (..., S, A)

    @classmethod
    def of(
        cls, dynamics: TabularDynamics, reward: Tensor | float, arrival: Tensor | None
    ) -> _Problem:
        count = dynamics.num_states
        check(count <= LARGEST, "dynamics", f"{count} states", f"at most {LARGEST}")
        reward = torch.as_tensor(reward)
        kinds = [dynamics.dtype, reward.dtype]
        kinds += [] if arrival is None else [arrival.dtype]
        reward = reward.to(functools.reduce(torch.promote_types, kinds))
        tail = count, dynamics.num_actions
        shapes: list[tuple[int, ...]] = [(*dynamics.batch_shape, *tail)]
        for name, part in (("reward", reward), ("arrival", arrival)):
            if part is None:
                continue
            own = part.shape if name == "reward" else (*part.shape, 1)
            shapes.append(tuple(own))
            ends = zip(reversed(own), reversed(tail), strict=False)
            fits = all(n in (1, full) for n, full in ends)
            fits = fits and (name == "reward" or part.shape[-1:] == (count,))
            words = f"to broadcast with (..., {count}, {tail[1]})"
            words = words if name == "reward" else f"(..., {count})"
            check_shape(name, part.shape, words, fits)
            if not bool(part.isfinite().all()):
                raise NonFiniteDataError(
                    "reward is not finite",
                    where=f"argument {name}",
                    found=f"{int((~part.isfinite()).sum())} such entries",
                    expected="finite numbers",
                    todo="Give impossible actions a large negative reward.",
                )
        return cls(dynamics, reward, arrival, torch.broadcast_shapes(*shapes))

    def zeros(self) -> Tensor:
        return self.reward.new_zeros(self.shape[:-1])

    def backup(self, values: Tensor, discount: float) -> Tensor:
        """Action values one step before `values`, `(..., S, A)`."""
        return self.reward + self.dynamics.expect(self._ahead(values, discount))

    def best(self, values: Tensor, discount: float) -> Tensor:
        """Values one step before `values`, `(..., S)`."""
        return self.dynamics.best(self._ahead(values, discount), self.reward)

    def _ahead(self, values: Tensor, discount: float) -> Tensor:
        ahead = discount * values
        return ahead if self.arrival is None else ahead + self.arrival
