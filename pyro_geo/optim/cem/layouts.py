"""How a population is shared out over the instances of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["LAYOUTS", "Group", "Layout", "groups_of", "populations"]

Layout = Literal["uniform", "portfolio"]
LAYOUTS: tuple[Layout, ...] = ("portfolio", "uniform")


class Group(NamedTuple):
    """Instances that have populations of one size, side by side.

    Attributes:
        first: number of the first instance.
        num_instances: how many there are.
        pop_size: candidates that each of them draws in an iteration.
        num_elites: of them that each is refitted to.
        first_row: of its candidates among those of the problem.
    """

    first: int
    num_instances: int
    pop_size: int
    num_elites: int
    first_row: int

    @property
    def num_rows(self) -> int:
        """Candidates of all its instances."""
        return self.num_instances * self.pop_size


def populations(pop_size: int, num_instances: int, layout: Layout) -> list[int]:
    """Share a population out.

    Args:
        pop_size: candidates of all instances in an iteration.
        num_instances: among how many.
        layout: `"uniform"` for equal shares, `"portfolio"` for half to the first
            instance and equal shares of the other half to the rest.

    Returns:
        The population of each instance; they add up to `pop_size` exactly.

    Example:
        >>> populations(500, 5, "uniform"), populations(500, 6, "portfolio")
        ([100, 100, 100, 100, 100], [250, 50, 50, 50, 50, 50])
    """
    if layout == "portfolio" and num_instances > 1:
        narrow = pop_size // 2 // (num_instances - 1)
        rest = num_instances - 1
        return [pop_size - narrow * rest, *[narrow] * rest]
    share, left = divmod(pop_size, num_instances)
    return [share + 1] * left + [share] * (num_instances - left)


def groups_of(shares: Sequence[int], elite_frac: float) -> tuple[Group, ...]:
    """Put neighbours with equal populations together.

    Args:
        shares: population of each instance.
        elite_frac: share of a population that is elite.

    Returns:
        The groups, in the order of the instances.

    Example:
        >>> [group.num_elites for group in groups_of([50, 20, 20], 0.1)]
        [5, 2]
    """
    groups: list[Group] = []
    row = 0
    for number, size in enumerate(shares):
        if groups and groups[-1].pop_size == size:
            last = groups[-1]
            groups[-1] = last._replace(num_instances=last.num_instances + 1)
        else:
            elites = max(1, round(elite_frac * size))
            groups.append(Group(number, 1, size, elites, row))
        row += size
    return tuple(groups)
