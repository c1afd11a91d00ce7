r"""Rules that choose an action from the values under each draw of what is unknown.

A rule is a function of two tensors: the action values under each draw,
`(..., draws, A)`, and the logarithms of the draws' weights, `(..., draws)`, of any sum.
It returns the number of an action for each leading index. Rules that draw at random use
torch's global generator; whoever runs them seeds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number

__all__ = [
    "MMRL",
    "UCB",
    "ActionSummary",
    "Select",
    "make_selector",
    "mean_rule",
    "most_probable_rule",
    "prior_mean_rule",
    "summarise",
    "thompson_rule",
]

Select = Callable[[Tensor, Tensor], Tensor]


class ActionSummary(NamedTuple):
    """Moments of action values over the draws.

    Attributes:
        mean: posterior mean, `(..., A)`.
        sd: standard deviation over the draws, `(..., A)`.
        p_best: probability that an action is the best one, `(..., A)`; draws under
            which several are equally good count for the first.
    """

    mean: Tensor
    sd: Tensor
    p_best: Tensor


def summarise(values: Tensor, log_weights: Tensor) -> ActionSummary:
    """Summarise action values over the draws.

    Args:
        values: action values, `(..., draws, A)`.
        log_weights: weights of the draws, `(..., draws)`.

    Returns:
        Mean, standard deviation and probability of being the best.

    Example:
        >>> values = torch.tensor([[0.0, 1.0], [4.0, 1.0]])
        >>> found = summarise(values, torch.tensor([0.75, 0.25]).log())
        >>> found.mean.tolist(), [round(float(p), 2) for p in found.p_best]
        ([1.0, 1.0], [0.25, 0.75])
    """
    weights = log_weights.softmax(-1)[..., None].to(values)
    mean = (weights * values).sum(-2)
    spread = (weights * (values - mean[..., None, :]).square()).sum(-2)
    best = values.argmax(-1, keepdim=True)
    chosen = torch.zeros_like(values).scatter(-1, best, 1.0)
    return ActionSummary(mean, spread.sqrt(), (weights * chosen).sum(-2))


def mean_rule(values: Tensor, log_weights: Tensor) -> Tensor:
    r"""Take the action of largest posterior mean, :math:`E[Q_\theta(s, a) \mid D]`.

    The rule takes it that nothing is unknown after this step, and so it never pays for
    information. Where the state is hidden it is the QMDP rule.

    Args:
        values: action values, `(..., draws, A)`.
        log_weights: weights of the draws, `(..., draws)`.

    Returns:
        Numbers of actions, `(...)`.

    References:
        Imani, Ghoreishi and Braga-Neto (2018), Bayesian Control of Large MDPs with
        Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> values = torch.tensor([[[0.0, 1.0], [3.0, 0.0]]])
        >>> mean_rule(values, torch.tensor([[0.5, 0.5]]).log())
        tensor([0])
    """
    weights = log_weights.softmax(-1)[..., None].to(values)
    return (weights * values).sum(-2).argmax(-1)


def thompson_rule(values: Tensor, log_weights: Tensor) -> Tensor:
    """Draw what is unknown from its posterior and take the best action under it.

    Args:
        values: action values, `(..., draws, A)`.
        log_weights: weights of the draws, `(..., draws)`.

    Returns:
        Numbers of actions, `(...)`.

    References:
        Strens (2000), A Bayesian framework for reinforcement learning, ICML.

    Example:
        >>> values = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
        >>> thompson_rule(values, torch.tensor([0.0, 1.0]).log())
        tensor(0)
    """
    uniform = torch.rand(log_weights.shape[:-1], dtype=torch.float64)
    edges = log_weights.double().softmax(-1).cumsum(-1)
    marks = (uniform[..., None] * edges[..., -1:]).contiguous()
    row = torch.searchsorted(edges.contiguous(), marks, right=True)
    return _best_under(values, row.clamp(max=edges.shape[-1] - 1))


def most_probable_rule(values: Tensor, log_weights: Tensor) -> Tensor:
    """Act as if the most probable draw were the truth: certainty equivalence.

    Args:
        values: action values, `(..., draws, A)`.
        log_weights: weights of the draws, `(..., draws)`.

    Returns:
        Numbers of actions, `(...)`.

    Example:
        >>> values = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
        >>> most_probable_rule(values, torch.tensor([0.6, 0.4]).log())
        tensor(1)
    """
    return _best_under(values, log_weights.argmax(-1, keepdim=True))


def prior_mean_rule(values: Tensor, log_weights: Tensor) -> Tensor:
    """Take the action of largest mean over the draws, and learn nothing.

    Args:
        values: action values, `(..., draws, A)`, draws of the prior.
        log_weights: not used.

    Returns:
        Numbers of actions, `(...)`.

    Example:
        >>> values = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
        >>> prior_mean_rule(values, torch.tensor([0.99, 0.01]).log())
        tensor(0)
    """
    return mean_rule(values, torch.zeros_like(log_weights))


class UCB(NamedTuple):
    r"""Take the action of largest upper bound, :math:`E[Q] + c\, \mathrm{sd}[Q]`.

    The standard deviation is that of the values over the draws. Unlike the mean rule it
    tries actions whose values are not known.

    Attributes:
        width: the number `c` of standard deviations.

    Example:
        >>> values = torch.tensor([[0.0, 1.1], [2.0, 1.1]])
        >>> UCB(1.0)(values, torch.zeros(2)), UCB(0.0)(values, torch.zeros(2))
        (tensor(0), tensor(1))
    """

    width: float = 0.5

    def __call__(self, values: Tensor, log_weights: Tensor) -> Tensor:
        """Choose actions, `(...)`."""
        found = summarise(values, log_weights)
        return (found.mean + self.width * found.sd).argmax(-1)


class MMRL(NamedTuple):
    """Mix the values under a few draws of the prior by their posterior weights.

    It is the mean rule on some draws alone; the truth need not be among them.

    Attributes:
        rows: numbers of the draws, `(N,)`.

    References:
        Doya, Samejima, Katagiri and Kawato (2002), Multiple model-based reinforcement
        learning, Neural Computation.

    Example:
        >>> values = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 9.0]])
        >>> MMRL(torch.tensor([0, 1]))(values, torch.zeros(3))
        tensor(0)
    """

    rows: Tensor

    def __call__(self, values: Tensor, log_weights: Tensor) -> Tensor:
        """Choose actions, `(...)`."""
        return mean_rule(values[..., self.rows, :], log_weights[..., self.rows])


_RULES: dict[str, Select] = {
    "mean": mean_rule,
    "thompson": thompson_rule,
    "certainty": most_probable_rule,
    "prior": prior_mean_rule,
}


def make_selector(select: str | Select, width: float = 0.5) -> Select:
    """Make a rule of its name.

    Args:
        select: `"mean"`, `"thompson"`, `"ucb"`, `"certainty"`, `"prior"`, or a rule.
        width: of the upper bound, for `"ucb"`.

    Returns:
        The rule.

    Example:
        >>> make_selector("ucb", 2.0)
        UCB(width=2.0)
    """
    check_number("width", width)
    if callable(select):
        return select
    if select == "ucb":
        return UCB(width)
    words = " or ".join(map(repr, [*_RULES, "ucb"])) + ", or a function"
    check(select in _RULES, "select", repr(select), words)
    return _RULES[select]


def _best_under(values: Tensor, row: Tensor) -> Tensor:
    """Best actions `(...)` under one draw each, whose numbers are `(..., 1)`."""
    index = row[..., None].expand(*row.shape, values.shape[-1])
    return values.gather(-2, index)[..., 0, :].argmax(-1)
