"""Descent from the best candidate of every instance, for objectives with gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pyro_geo.optim.cem.objective import Objective, check_costs
from pyro_geo.optim.cem.result import CEMResult
from pyro_geo.optim.cem.starts import Start
from pyro_geo.optim.descent import adam, adam_step

__all__ = ["polished"]

_STEP = 0.05  # of the first spread, and smaller with each step


def polished(
    f: Objective,
    result: CEMResult,
    start: Start,
    num_steps: int,
    *,
    flat: bool,
    vectorized: bool,
) -> CEMResult:
    """Improve the best candidate of every instance by steps of Adam.

    The steps are scaled by the first standard deviations. A point that would leave the
    box is evaluated at the nearest point inside.

    Args:
        f: the objective, which torch can differentiate.
        result: of the search.
        start: bounds and first spread of every problem.
        num_steps: steps, and evaluations of each instance.
        flat: whether `f` takes rows and their problems.
        vectorized: whether it takes many points at once.

    Returns:
        The result with better candidates, and their evaluations counted.
    """
    shape = result.best_x.shape
    instances = shape[-2]
    problem = torch.arange(len(start.mean), device=start.mean.device)
    problem = problem.repeat_interleave(instances)
    first = result.best_x.reshape(-1, shape[-1])
    scale = start.std[problem]
    lower, upper = start.lower.expand_as(start.mean), start.upper.expand_as(start.mean)
    lower, upper = lower[problem], upper[problem]

    def inside(moves: Tensor) -> Tensor:
        x = first + scale * moves
        return torch.minimum(torch.maximum(x, lower), upper)

    def costs(moves: Tensor) -> Tensor:
        x = inside(moves)
        if not vectorized:
            points = zip(x, problem, strict=True)
            each = [f(*pair) if flat else f(pair[0]) for pair in points]
            return torch.stack([torch.as_tensor(cost) for cost in each])
        cost = f(x, problem) if flat else f(x.view(shape))
        check_costs(cost, x.shape[:-1] if flat else shape[:-1])
        assert isinstance(cost, Tensor)
        return cost.reshape(-1)

    def value_and_grad(moves: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            moves = moves.detach().requires_grad_()
            cost = costs(moves)
            (grad,) = torch.autograd.grad(cost.sum(), moves)
        return cost.detach().to(moves.dtype), grad

    with torch.no_grad():
        step = partial(adam_step, value_and_grad)
        best = inside(adam(step, torch.zeros_like(first), num_steps, _STEP).best)
        moves = (best - first) / scale
        fun = costs(moves).to(first.dtype)
        old = result.best_fun.reshape(-1)
        better = fun < old
        best_x = torch.where(better.unsqueeze(-1), inside(moves), first).view(shape)
        best_fun = torch.where(better, fun, old).view(shape[:-1])
    lowest, instance = best_fun.min(-1)
    chosen = instance[..., None, None].expand(*instance.shape, 1, shape[-1])
    return replace(
        result,
        x=best_x.gather(-2, chosen).squeeze(-2),
        fun=lowest,
        best_x=best_x,
        best_fun=best_fun,
        instance=instance,
        n_evals=result.n_evals + (num_steps + 1) * instances,
    )
