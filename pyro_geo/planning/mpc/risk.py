r"""Risk measures: what a plan whose cost is uncertain is judged by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check_number

__all__ = ["CVaR", "Risk"]

Risk = Callable[[Tensor], Tensor]
"""A function of the costs under each draw, `(..., S)`, lower being better: `(...)`."""


class CVaR:
    r"""Mean cost of the worst share :math:`1 - \beta` of the draws.

    .. math:: \mathrm{CVaR}_\beta(C) = \min_c\; c + \frac{E (C - c)_+}{1 - \beta}

    Use it where a plan that is good on average and ruinous under some draws must not
    be taken. It is coherent, and between the mean (:math:`\beta = 0`) and the largest
    cost (:math:`\beta \ge 1 - 1/S`). Where the share is no whole number of draws, the
    last one counts with what remains, which is the exact value for draws of equal
    weight. With `S` draws nothing beyond the worst one is seen: a level of .9 needs
    some tens of them.

    Args:
        beta: the level, from 0 to below 1.

    References:
        Rockafellar and Uryasev (2000), Optimization of conditional value-at-risk,
        Journal of Risk; theorem 1 and, for draws, their (2002) Conditional
        value-at-risk for general loss distributions, proposition 8.

    Example:
        >>> CVaR(0.5)(torch.tensor([1.0, 4.0, 2.0, 3.0]))
        tensor(3.5000)
    """

    def __init__(self, beta: float) -> None:
        check_number("beta", beta, 0.0, 1.0)
        self.beta = float(beta)

    def __call__(self, costs: Tensor) -> Tensor:
        """Judge costs.

        Args:
            costs: under each draw, `(..., S)`.

        Returns:
            The risk, `(...)`; NaN where a cost is.
        """
        count = costs.shape[-1]
        share = (1 - self.beta) * count
        # draw number i, the worst first, counts with what of [i, i + 1] is in the share
        ranks = torch.arange(count, dtype=torch.float64)
        weight = ((share - ranks).clamp(0, 1) / share).to(costs)
        worst = costs.sort(-1, descending=True).values
        # 0 times infinity is no number, so draws outside the share are left out
        inside = weight > 0
        return (worst[..., inside] * weight[inside]).sum(-1)

    def __repr__(self) -> str:
        """Say the level."""
        return f"CVaR({self.beta:g})"
