r"""Attacks that ask a memory which data it has seen.

The score of a gradient is its Rayleigh quotient :math:`\hat g^\top M \hat g`: a memory
that has added outer products of a datum's gradients is larger along them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape

__all__ = ["AUC", "Multiplies", "auc", "forget_energy", "rayleigh", "state_attack"]


class Multiplies(Protocol):
    """What can be multiplied with; every positive-definite matrix is one."""

    @property
    def dim(self) -> int:
        """Number of rows."""
        ...

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        ...


class AUC(NamedTuple):
    """Area under the curve of true against false alarms.

    Attributes:
        value: probability that a member scores above a non-member, ties one half.
        se: its standard error by DeLong; NaN with one score on a side.
    """

    value: float
    se: float


def auc(members: Tensor, others: Tensor) -> AUC:
    r"""Compare scores of members with those of others.

    The value is that of Mann and Whitney, with ties one half. The standard error adds
    the variances of each member's and of each other's mean win.

    Args:
        members: scores that should be high, `(n,)`.
        others: scores that should be low, `(m,)`.

    Returns:
        Value and standard error.

    References:
        DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more
        correlated receiver operating characteristic curves.

    Example:
        >>> auc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])).value
        0.75
    """
    for name, scores in (("members", members), ("others", others)):
        good = scores.ndim == 1 and len(scores) > 0
        check_shape(name, scores.shape, "(n,) with n above 0", good=good)
        check(not bool(scores.isnan().any()), name, "NaN", "numbers")
    x, order = torch.cat([members, others]).double(), len(members)
    wins = _wins(x[:order], x[order:]) / len(others)
    losses = 1 - _wins(x[order:], x[:order]) / len(members)
    value = float(wins.mean())
    if min(len(members), len(others)) < 2:
        return AUC(value, math.nan)
    variance = wins.var() / len(wins) + losses.var() / len(losses)
    return AUC(value, float(variance.sqrt()))


def _wins(scores: Tensor, against: Tensor) -> Tensor:
    """How many of the others each score is above, ties one half; `O(n log n)`."""
    ranked = against.sort().values
    below = torch.searchsorted(ranked, scores, right=False)
    up_to = torch.searchsorted(ranked, scores, right=True)
    return 0.5 * (below + up_to).double()


def rayleigh(memory: Multiplies, gradients: Tensor) -> Tensor:
    r"""Score gradients by :math:`\log \hat g^\top M \hat g`.

    Args:
        memory: in the order of the gradients' coordinates.
        gradients: `(n, dim)`; their lengths do not matter. Rows of zeros are left out.

    Returns:
        Scores, at most `(n,)`.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> memory = Diagonal(torch.tensor([1.0, 2.0]))
        >>> rayleigh(memory, torch.eye(2)).exp().tolist()
        [1.0, 4.0]
    """
    good = gradients.ndim == 2 and gradients.shape[1] == memory.dim
    check_shape("gradients", gradients.shape, f"(n, {memory.dim})", good=good)
    rows = gradients.detach().double()
    size = rows.norm(dim=1)
    rows = rows[size > 0] / size[size > 0, None]
    # a direction that holds nothing at all stays comparable
    tiny = torch.finfo(torch.float64).tiny
    return (rows * memory.matvec(rows)).sum(1).clamp(min=tiny).log()


def forget_energy(memory: Multiplies, forget: Tensor, control: Tensor) -> float:
    r"""How much larger a memory is along forget gradients than along others.

    .. math:: E_f(M) = \operatorname{mean}_F \log \hat g^\top M \hat g
              - \operatorname{mean}_C \log \hat g^\top M \hat g

    Its difference between an unlearned state and a counterfactual, at one set of
    gradients, says what is left of the forget set. Neither the scale of the memory nor
    a rotation of all coordinates changes it.

    Args:
        memory: of an optimiser.
        forget: gradients of forgotten data, `(n, dim)`.
        control: gradients of data that neither state treats differently, at the same
            parameters, `(m, dim)`.

    Returns:
        The difference of means, in nats.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> memory = Diagonal(torch.tensor([2.0, 1.0]))  # 4 and 1 as a matrix
        >>> forget, control = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> round(forget_energy(memory, forget, control), 4)  # log 4
        1.3863
    """
    return float(rayleigh(memory, forget).mean() - rayleigh(memory, control).mean())


def state_attack(
    unlearned: Sequence[Multiplies],
    counterfactual: Sequence[Multiplies],
    forget: Tensor,
    control: Tensor,
) -> AUC:
    """Let an attacker tell states that saw the forget set from those that never did.

    It sees one memory at a time and scores it by its forget energy.

    Args:
        unlearned: memories after deletion, of several seeds.
        counterfactual: memories trained without the forget set, of several seeds, and
            treated alike.
        forget: gradients of forgotten data, `(n, dim)`.
        control: gradients of other data, `(m, dim)`.

    Returns:
        Area under the curve: 1 where every unlearned memory is found out, one half
        where nothing tells them apart.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> kept = [Diagonal(torch.tensor([4.0 + k, 1.0])) for k in range(3)]
        >>> never = [Diagonal(torch.tensor([1.0, 1.0 + k])) for k in range(3)]
        >>> forget, control = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> state_attack(kept, never, forget, control).value
        1.0
    """
    check(len(unlearned) > 0, "unlearned", "none", "at least one memory")
    check(len(counterfactual) > 0, "counterfactual", "none", "at least one memory")
    scores = [
        torch.tensor([forget_energy(m, forget, control) for m in memories])
        for memories in (unlearned, counterfactual)
    ]
    return auc(*scores)
