"""How candidates of all problems and instances reach the objective, and its costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import ObjectiveShapeError

__all__ = ["Array", "Objective", "arranged", "check_costs", "evaluate"]

Objective = Callable[..., Tensor | float]


class Array(NamedTuple):
    """Candidates as an objective gets them.

    Attributes:
        x: candidates, `(*batch_shape, width, dim)`, or `(rows, dim)` where they are
            flat.
        place: of each row among those of `x`; None where it has no fillers.
    """

    x: Tensor
    place: Tensor | None


def arranged(
    rows: Tensor, problem: Tensor, batch_shape: tuple[int, ...], *, even: bool
) -> Array:
    """Arrange candidates by problem.

    Where problems have different numbers of them, the shorter ones are filled up with
    copies of candidates.

    Args:
        rows: candidates, `(rows, dim)`, those of one problem together.
        problem: of each row, `(rows,)`.
        batch_shape: shape of the problems.
        even: whether all problems are known to have equally many.

    Returns:
        The array and where the rows are in it.

    Example:
        >>> rows, problem = torch.arange(3.0).unsqueeze(-1), torch.tensor([0, 1, 1])
        >>> arranged(rows, problem, (2,), even=False).x.squeeze(-1)
        tensor([[0., 0.],
                [1., 2.]])
    """
    dim = rows.shape[-1]
    problems = math.prod(batch_shape)
    if even or problems == 1:
        return Array(rows.view(*batch_shape, len(rows) // problems, dim), None)
    counts = problem.bincount(minlength=problems)
    width = int(counts.max())
    first = counts.cumsum(0) - counts
    numbers = torch.arange(len(rows), device=rows.device)
    place = problem * width + numbers - first[problem]
    # a problem without candidates gets one of another's: its costs are not read
    source = first.clamp(max=len(rows) - 1).repeat_interleave(width)
    source = source.index_copy(0, place, numbers)
    return Array(rows.index_select(0, source).view(*batch_shape, width, dim), place)


def evaluate(
    f: Objective,
    x: Tensor,
    problem: Tensor,
    *,
    flat: bool,
    vectorized: bool,
    max_points: int | None = None,
) -> Tensor:
    """Evaluate candidates.

    Args:
        f: the objective.
        x: candidates, `(*batch_shape, width, dim)`, or `(rows, dim)` if `flat`.
        problem: of each row, `(rows,)`; for `flat` alone.
        flat: whether `f` takes rows and their problems.
        vectorized: whether it takes many points at once.
        max_points: most points in one call; all if None.

    Returns:
        Costs as they are, `x.shape[:-1]`.
    """
    shape = x.shape[:-1]
    if not vectorized:
        points = x.reshape(-1, x.shape[-1])
        if flat:
            costs = [f(*pair) for pair in zip(points, problem, strict=True)]
        else:
            costs = [f(point) for point in points]
        costs = [torch.as_tensor(cost).detach() for cost in costs]
        for cost in costs:
            check_costs(cost, ())
        return torch.stack(costs).view(shape)
    if max_points is None or shape.numel() <= max_points:
        return check_costs(f(x, problem) if flat else f(x), shape)
    if flat:
        pairs = zip(x.split(max_points), problem.split(max_points), strict=True)
        return torch.cat([check_costs(f(*pair), pair[1].shape) for pair in pairs])
    width = max(1, max_points * shape[-1] // shape.numel())
    parts = x.split(width, dim=-2)
    return torch.cat([check_costs(f(part), part.shape[:-1]) for part in parts], dim=-1)


def check_costs(cost: object, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Refuse what is not one number for each candidate.

    Args:
        cost: what the objective returned.
        shape: of the candidates without their dimensions.

    Returns:
        The costs, detached.

    Raises:
        ObjectiveShapeError: it is no tensor of that shape.
    """
    if isinstance(cost, Tensor) and cost.shape == shape:
        return cost.detach()
    found = tuple(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
    raise ObjectiveShapeError(
        "the objective does not return one cost for each candidate",
        where="costs of the candidates",
        found=found,
        expected=tuple(shape),
        todo="Reduce over the last axis alone, or pass vectorized=False for a "
        "function of one point.",
    )
