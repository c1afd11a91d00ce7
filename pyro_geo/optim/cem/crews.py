"""Which searches are live, and how their candidates are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.optim.cem.layouts import Group
from pyro_geo.optim.cem.mixture import MixtureState
from pyro_geo.optim.cem.record import Lives
from pyro_geo.optim.cem.step import State

__all__ = ["Crew", "Places", "places_of"]


class Crew(NamedTuple):
    """The live searches of one group, over all problems.

    Attributes:
        group: which.
        state: of them.
        home: problem times the number of instances, plus the instance, `(searches,)`.
        problem: of each, `(searches,)`.
    """

    group: Group
    state: State | MixtureState
    home: Tensor
    problem: Tensor

    @property
    def num_rows(self) -> int:
        """Candidates of all its searches."""
        return len(self.home) * self.group.pop_size

    def only(self, rows: Tensor) -> Crew:
        """Keep some searches.

        Args:
            rows: their numbers.

        Returns:
            A crew of them alone.
        """
        state = type(self.state)(*[leaf[rows] for leaf in self.state])
        return Crew(self.group, state, self.home[rows], self.problem[rows])

    def lives(self, converged: Tensor) -> Lives:
        """Give the searches as lives that end now.

        Args:
            converged: whether each has, `(searches,)`.

        Returns:
            Their lives.
        """
        return Lives(*self.state[:6], home=self.home, converged=converged)


class Places(NamedTuple):
    """Where the candidates of crews stand among all rows.

    Attributes:
        full: whether every instance of every problem is live.
        need: rows of each problem, `(problems,)`.
        problem: of each row, `(rows,)`, in ascending order.
        order: row of the crews, one after another, that stands at each place; None
            where that is clear: with all live, or a single crew.
    """

    full: bool
    need: Tensor
    problem: Tensor
    order: Tensor | None

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the candidates of the crews.

        Args:
            parts: candidates of each crew, `(searches, pop_size, dim)`.

        Returns:
            Rows in the order of their problems, `(rows, dim)`.
        """
        if self.full:
            by_problem = [x.view(len(self.need), -1, x.shape[-1]) for x in parts]
            whole = by_problem[0] if len(parts) == 1 else torch.cat(by_problem, 1)
            return whole.flatten(0, 1)
        rows = torch.cat([x.flatten(0, 1) for x in parts])
        return rows if self.order is None else rows.index_select(0, self.order)

    def parted(self, cost: Tensor, crews: Sequence[Crew]) -> list[Tensor]:
        """Part costs among the crews.

        Args:
            cost: of each row, `(rows,)`.
            crews: that the rows are from.

        Returns:
            Costs of each crew, `(searches, pop_size)`.
        """
        if self.full:
            whole = cost.view(len(self.need), -1)
            widths = [crew.group.num_rows for crew in crews]
            parts = [part.reshape(-1) for part in whole.split(widths, 1)]
        else:
            if self.order is not None:
                cost = torch.empty_like(cost).index_copy_(0, self.order, cost)
            parts = cost.split([crew.num_rows for crew in crews])
        pairs = zip(parts, crews, strict=True)
        return [part.view(-1, crew.group.pop_size) for part, crew in pairs]


def places_of(crews: Sequence[Crew], num_problems: int, num_instances: int) -> Places:
    """Find the places of the candidates of some crews.

    Args:
        crews: that have searches, at least one.
        num_problems: how many problems there are.
        num_instances: how many instances each has.

    Returns:
        The places.
    """
    live = sum(len(crew.home) for crew in crews)
    problem = torch.cat(
        [crew.problem.repeat_interleave(crew.group.pop_size) for crew in crews]
    )
    need = problem.bincount(minlength=num_problems)
    full = live == num_problems * num_instances
    if full:
        problem = problem.sort().values
    order = None
    if not full and len(crews) > 1:
        order = problem.argsort(stable=True)
        problem = problem[order]
    return Places(full, need, problem, order)
