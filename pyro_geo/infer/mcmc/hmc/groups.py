"""Chains in several modes at once: statistics within modes, and the slowest of them.

Chains that started in modes which are not joined differ by where their modes are. A
covariance over all of them would measure the distance of the modes, not their widths,
and a mean acceptance rate would hide a narrow mode in which hardly a step is accepted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ModeGroups", "group_means"]

_MEMORY = 0.9  # of the running means, for each transition
_SLACK = 0.05  # acceptance rates that differ by less are taken together


class ModeGroups(NamedTuple):
    """Which chains started in one mode, and what is known of each such group.

    Attributes:
        member: group of each chain, `(chains,)`.
        centres: running means of positions, `(groups, dim)`.
        rates: running means of acceptance rates, `(groups,)`; NaN before the first.
    """

    member: Tensor
    centres: Tensor
    rates: Tensor

    @classmethod
    def of(cls, modes: Tensor | None, q: Tensor) -> ModeGroups | None:
        """Begin where the chains start.

        Args:
            modes: that they start in, `(chains,)`, or None.
            q: positions, `(chains, dim)`.

        Returns:
            The groups; None where there is one at most.
        """
        if modes is None:
            return None
        names, index = modes.to(q.device).unique(return_inverse=True)
        if len(names) < 2:
            return None
        centres = group_means(q, index, len(names))
        return cls(index, centres, torch.full_like(centres[:, 0], torch.nan))

    def accepted(self, acceptance: Tensor, arrived: Tensor) -> tuple[ModeGroups, float]:
        """Find the acceptance rate of the groups that accept least.

        Args:
            acceptance: of each chain, `(chains,)`.
            arrived: chains that count, `(chains,)`.

        Returns:
            The groups with new running means, and the mean rate of this transition over
            those groups whose running mean is lowest.
        """
        count = len(self.rates)
        now = group_means(acceptance[arrived, None], self.member[arrived], count)[:, 0]
        old = torch.where(self.rates.isnan(), now, self.rates)
        rates = torch.where(now.isnan(), old, _MEMORY * old + (1 - _MEMORY) * now)
        # of those that are there now: a group may have lost its last chain
        least = rates[~now.isnan()].min()
        slow = (rates <= least + _SLACK)[self.member] & arrived
        return self._replace(rates=rates), float(acceptance[slow].mean())

    def follow(self, q: Tensor, share: float) -> ModeGroups:
        """Move the running means of positions.

        Args:
            q: positions, `(chains, dim)`.
            share: of the new ones.

        Returns:
            The groups.
        """
        now = group_means(q, self.member, len(self.rates))
        return self._replace(centres=self.centres + share * (now - self.centres))

    def within(self, values: Tensor, index: Tensor) -> Tensor:
        """Take the mean of each group from its rows.

        Args:
            values: rows, `(n, dim)`.
            index: group of each, `(n,)`.

        Returns:
            Differences from the means, `(n, dim)`.
        """
        return values - group_means(values, index, len(self.rates))[index]


def group_means(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of the finite rows of each group.

    Args:
        values: rows, `(n, dim)`.
        index: group of each, `(n,)`.
        count: groups.

    Returns:
        Means, `(groups, dim)`; NaN for a group without rows.

    Example:
        >>> rows, index = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1])
        >>> group_means(rows, index, 2).flatten().tolist()
        [2.0, 5.0]
    """
    good = values.isfinite().all(-1)
    values, index = values[good], index[good]
    total = values.new_zeros(count, values.shape[1]).index_add_(0, index, values)
    return total / torch.bincount(index, minlength=count)[:, None]
