"""Steps of a Markov process, from which values are learned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from pyro_geo.checks import check_choice, check_count, check_shape
from pyro_geo.errors import DiscountError, EpisodeError
from pyro_geo.gp._transition_checks import (
    discounts_of,
    labels_of,
    refuse_non_finite,
    tensor_of,
    weights_of,
)

__all__ = ["NOISES", "Noise", "Transitions", "value_rows"]

Noise = Literal["reward", "return"]  # see TDLikelihood
NOISES = get_args(Noise)

_CLOSE = 1e-6  # a successor that is stored as float32 is still the next state


class Transitions:
    r"""Steps of one or of many episodes: node, successor, reward and discount.

    .. math:: r_t = f(x_t) - \gamma_t \sum_j w_{tj} f(x'_{tj}) + \epsilon_t

    A node is what the value :math:`f` depends on: a state, or a state with an action.
    A step that **terminates** its episode has discount 0, and nothing follows it. A
    step that is **truncated** (by a time limit, say) keeps its discount: the value of
    its successor counts, although the episode is not seen any further. Rows stand in
    the order of time; `episode` tells where the next episode begins. Successors of
    steps that terminate are never looked at, and may be anything.

    Args:
        x: nodes, `(*batch, T, D)`.
        x_next: their successors, `(*batch, T, D)`, or several for each step,
            `(*batch, T, J, D)`.
        reward: rewards, `(*batch, T)`.
        discount: one number for all steps, or `(*batch, T)`; `(*batch, T, J)` where
            only some successors of a step terminate.
        weight: probabilities of the successors, `(*batch, T, J)`, which sum to one;
            equal when left out.
        episode: number of each step's episode, `(T,)`; when left out, only a step of
            discount 0 ends one.
        nan: what becomes of rows that are not finite: `"raise"`, or `"drop"`. A dropped
            row ends its episode there.
        dtype: floating type of all tensors.

    Raises:
        EpisodeError: the rows of an episode do not stand together.

    References:
        Engel, Mannor & Meir (2003), Bayes meets Bellman: the Gaussian process approach
        to temporal difference learning. Several weighted successors are derived.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> steps = Transitions(x, x + 1, torch.ones(3), torch.tensor([0.9, 0.9, 0.0]))
        >>> steps.pack()[-1].tolist()  # it terminates: no successor, coefficient 0
        [2.0, 2.0, 0.0]
    """

    def __init__(
        self,
        x: Any,
        x_next: Any,
        reward: Any,
        discount: Any,
        weight: Any = None,
        episode: Any = None,
        *,
        nan: Literal["raise", "drop"] = "raise",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check_choice("nan", nan, ("raise", "drop"))
        x = tensor_of("x", x, dtype)  # says on which device all of them are
        named = {"x_next": x_next, "reward": reward, "discount": discount}
        x_next, reward, discount = (
            tensor_of(name, value, dtype, x.device) for name, value in named.items()
        )
        good = x.dim() >= 2 and x.shape[-2] > 0
        check_shape("x", x.shape, "(*batch, T, D) with T of at least 1", good)
        several = x_next.dim() == x.dim() + 1
        nodes = x_next if several else x_next.unsqueeze(-2)
        *batch, steps, dim = x.shape
        count = nodes.shape[-2]
        fits = nodes.shape == (*batch, steps, count, dim) and count > 0
        check_shape(
            "x_next", x_next.shape, f"{tuple(x.shape)}, or with J before D", fits
        )
        check_shape("reward", reward.shape, (*batch, steps))
        discount = discounts_of(discount, (*batch, steps), count)
        weight = weights_of(weight, (*batch, steps, count), x)
        label = labels_of(episode, steps, x.device)

        coefficient = weight * discount
        # what does not count may be anything, as long as it does not become NaN * 0
        nodes = torch.where((coefficient == 0).unsqueeze(-1), x.unsqueeze(-2), nodes)
        finite = x.isfinite().all(-1) & nodes.isfinite().all(-1).all(-1)
        finite &= reward.isfinite() & coefficient.isfinite().all(-1)
        good = finite.reshape(-1, steps).all(0)
        if not bool(good.all()):
            refuse_non_finite(good, nan)
            label = (label.diff(prepend=label[:1]) != 0) | ~good
            label = label.cumsum(0)[good]
            x, nodes, reward = (
                x[..., good, :],
                nodes[..., good, :, :],
                reward[..., good],
            )
            weight, coefficient = weight[..., good, :], coefficient[..., good, :]

        self.x, self.reward = x, reward
        self.x_next = nodes if several else nodes.squeeze(-2)
        self.weight, self.coefficient = weight, coefficient
        self.episode = label
        self._check_discounts()

    @property
    def successors(self) -> int:
        """Number of successors of a step, `J`."""
        return self.coefficient.shape[-1]

    @property
    def dim(self) -> int:
        """Number of columns of a node, `D`."""
        return self.x.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """Shape in front of the steps."""
        return self.x.shape[:-2]

    @property
    def discount(self) -> Tensor:
        """Discounts of the steps, `(*batch, T)`: 0 where one terminates."""
        return self.coefficient.sum(-1)

    @property
    def linked(self) -> Tensor:
        """Whether the next row is the next step of the same episode, `(*batch, T)`."""
        same = self.episode.diff(append=self.episode[-1:] + 1) == 0
        return same & (self.discount > 0)

    def __repr__(self) -> str:
        """Count the steps."""
        lead = tuple(self.reward.shape[:-1])
        batch = f" in a batch of {lead}" if lead else ""
        return f"Transitions({len(self)} steps{batch})"

    def __len__(self) -> int:
        return self.reward.shape[-1]

    def __getitem__(self, rows: slice) -> Transitions:
        """Take some of the steps; an episode that is cut is truncated there."""
        part = copy.copy(self)
        part.x, part.reward = self.x[..., rows, :], self.reward[..., rows]
        several = self.x_next.dim() > self.x.dim()
        part.x_next = self.x_next[(..., rows, slice(None)) + (slice(None),) * several]
        part.weight = self.weight[..., rows, :]
        part.coefficient = self.coefficient[..., rows, :]
        part.episode = self.episode[rows]
        return part

    def expand(self, batch: torch.Size | tuple[int, ...]) -> Transitions:
        """Repeat the steps along new axes in front, without copying.

        Args:
            batch: their sizes.

        Returns:
            Steps of batch shape `(*batch, *batch_shape)`.
        """
        wide = copy.copy(self)
        for name in ("x", "x_next", "reward", "weight", "coefficient"):
            value = getattr(self, name)
            setattr(wide, name, value.expand(*batch, *value.shape))
        return wide

    def pack(self) -> Tensor:
        r"""Rows that :class:`~pyro_geo.gp.TDKernel` takes as its inputs.

        .. math:: z_t = [\,x_t \mid x'_{t1} \dots x'_{tJ} \mid c_{t1} \dots c_{tJ}\,],
                  \qquad c_{tj} = \gamma_t w_{tj}

        Returns:
            The rows, `(*batch, T, D + J * D + J)`.

        Example:
            >>> step = Transitions([[1.0]], [[2.0]], [0.5], 0.9)
            >>> step.pack().tolist()
            [[1.0, 2.0, 0.9]]
        """
        nodes = self.x_next.reshape(*self.x.shape[:-1], -1)
        return torch.cat([self.x, nodes, self.coefficient], -1)

    def joined(self, other: Transitions, *, new_episode: bool = False) -> Transitions:
        """Put further steps behind these.

        They go on with the last episode if they start where it has got to.

        Args:
            other: further steps, with the same columns and successors.
            new_episode: they begin an episode, wherever they start.

        Returns:
            All steps.

        Example:
            >>> x = torch.arange(4.0)[:, None]
            >>> steps = Transitions(x, x + 1, torch.ones(4), 0.9)
            >>> steps[:2].joined(steps[2:]).episode.tolist()
            [0, 0, 0, 0]
            >>> steps[:2].joined(steps[2:], new_episode=True).episode.tolist()
            [0, 0, 1, 1]
        """
        whole = copy.copy(self)
        rows = {"x": -2, "weight": -2, "coefficient": -2, "reward": -1}
        rows["x_next"] = -2 if self.x_next.dim() == self.x.dim() else -3
        for name, axis in rows.items():
            parts = getattr(self, name), getattr(other, name)
            setattr(whole, name, torch.cat(parts, axis))
        last = self.x_next.reshape(*self.x.shape[:-1], -1)[..., -1, : self.dim]
        follows = bool((last == other.x[..., 0, :]).all()) and not new_episode
        shift = self.episode[-1] - other.episode[0] + 1 - int(follows)
        whole.episode = torch.cat([self.episode, other.episode + shift])
        return whole

    def check_chain(self) -> None:
        """Refuse steps whose successor is not the node of the next row.

        Noise of returns is that of visits, which two neighbouring steps share.

        Raises:
            EpisodeError: an episode has a gap, or steps have several successors.

        Example:
            >>> x = torch.arange(3.0)[:, None]
            >>> Transitions(x, x + 1, torch.ones(3), 0.9).check_chain()
        """
        if self.successors > 1:
            raise EpisodeError(
                "several successors are not a path",
                where="argument transitions",
                found=f"{self.successors} successors for each step",
                expected="one, because noise='return' belongs to visits in a row",
                todo="Use noise='reward', or one successor for each step.",
            )
        nodes = self.x_next.reshape(self.x.shape)
        gap = (nodes[..., :-1, :] - self.x[..., 1:, :]).abs()
        limit = _CLOSE * (1 + self.x.abs().amax(-2, keepdim=True))
        broken = (gap > limit).any(-1) & self.linked[..., :-1]
        if bool(broken.any()):
            row = int(broken.reshape(-1, broken.shape[-1]).any(0).nonzero()[0])
            raise EpisodeError(
                "an episode has a gap",
                where=f"rows {row} and {row + 1}",
                found="a successor that is not the next row's node",
                expected="x_next[t] equal to x[t + 1] inside an episode",
                todo="Number the episodes by episode=, or use noise='reward'.",
            )

    @classmethod
    def from_gymnasium(
        cls,
        env: Any,
        policy: Callable[[Any], Any] | None = None,
        *,
        discount: float = 0.99,
        num_steps: int = 1000,
        node: Callable[[Any, Any], Any] | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """Play an environment and record what happens.

        A step that terminates has discount 0. One that is only truncated keeps the
        discount and ends its episode, and so does the last step.

        Args:
            env: a `gymnasium` environment.
            policy: from an observation to an action; random actions when left out.
            discount: of a step that does not terminate.
            num_steps: how many steps to take, over as many episodes as it needs.
            node: what the value depends on, from observation and action; the
                observation alone, flattened, when left out. For action values join the
                two.
            seed: of the first episode, and of random actions.
            dtype: floating type.

        Returns:
            The steps.

        Example:
            >>> class Walk:  # an environment of two steps
            ...     def reset(self, seed=None):
            ...         self.at = 0.0
            ...         return self.at, {}
            ...
            ...     def step(self, action):
            ...         self.at += action
            ...         return self.at, -1.0, self.at > 1, False, {}
            >>> steps = Transitions.from_gymnasium(Walk(), lambda s: 1.0, num_steps=4)
            >>> steps.discount.tolist(), steps.episode.tolist()
            ([0.99, 0.0, 0.99, 0.0], [0, 0, 1, 1])
        """
        from pyro_geo.gp._rollout import play

        check_count("num_steps", num_steps)
        steps = play(env, policy, num_steps, node, seed)
        ends = torch.as_tensor(steps.terminated)
        discounts = torch.where(ends, 0.0, torch.as_tensor(discount, dtype=dtype))
        return cls(
            steps.x,
            steps.x_next,
            steps.reward,
            discounts,
            None,
            steps.episode,
            dtype=dtype,
        )

    def _check_discounts(self) -> None:
        ends = (self.coefficient == 0).any(-1).any(-1)
        forever = (self.discount == 1).any(-1) & ~ends
        if bool(forever.any()):
            raise DiscountError(
                "undiscounted steps that never terminate",
                where="argument discount",
                found="discounts of 1, and none of 0",
                expected="a discount below 1, or a step that terminates",
                todo="Give the last step of an episode that terminates discount 0.",
            )


def value_rows(x: Tensor, successors: int = 1) -> Tensor:
    r"""Rows that ask :class:`~pyro_geo.gp.TDKernel` for the value itself.

    .. math:: z = [\,x \mid x \dots x \mid 0 \dots 0\,]

    Args:
        x: nodes, `(*batch, n, D)`.
        successors: of the transitions that the kernel is for, `J`.

    Returns:
        The rows, `(*batch, n, D + J * D + J)`; derivatives flow back to `x`.

    Example:
        >>> value_rows(torch.tensor([[2.0]])).tolist()
        [[2.0, 2.0, 0.0]]
    """
    zero = x.new_zeros(*x.shape[:-1], successors)
    return torch.cat([x, *[x.detach()] * successors, zero], -1)
