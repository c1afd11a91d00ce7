"""Merging with the least interference between tasks: WUDI-Merging."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check_choice, check_count, check_number
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._reader import Reader, Rule, run, shifted
from pyro_geo.summaries.merge._tasks import Models, StateDict

__all__ = ["wudi"]

_CUT = 1e-10  # of the largest eigenvalue: directions that no task has


@cites("wudi")
def wudi(
    base: StateDict,
    models: Models,
    *,
    solver: str = "adam",
    steps: int = 300,
    step_size: float = 1e-5,
    scale: float = 1.0,
    matrices: Callable[[str], bool] | None = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Merge matrices so that they act on each task's own subspace as that task does.

    The rows of a difference :math:`\tau_k` stand for the inputs of its task. From
    :math:`\tau = \sum_k \tau_k`, minimise

    .. math:: \sum_k \frac{\|(\tau - \tau_k) \tau_k^\top\|_F^2}{\|\tau_k\|_F^2}.

    The published method takes a fixed number of steps of Adam, and so ends well before
    the minimum. Adam moves each element by about `step_size` a step, whatever the size
    of the differences: scale it with them. `solver="exact"` gives the minimiser that is
    closest to the sum. Other tensors are averaged, and scaled alike.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        solver: `"adam"`, as published, or `"exact"`.
        steps: of Adam.
        step_size: of Adam.
        scale: of the merged difference.
        matrices: whether the matrix of a name is merged so; the others are averaged. By
            default all are.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Cheng et al. (2025), Whoever started the interference should end it: guiding
        data-free model merging via task vectors, arXiv 2503.08099.

    Example:
        >>> base = {"w": torch.zeros(1, 2)}
        >>> one, two = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> wudi(base, [{"w": one}, {"w": two}], solver="exact")
        {'w': tensor([[2., 1.]])}
    """
    options = {
        "solver": solver,
        "steps": steps,
        "step_size": step_size,
        "scale": scale,
        "matrices": matrices,
    }
    return run(base, models, wudi_rule, options, shared, dtype)


def wudi_rule(
    reader: Reader,
    solver: str = "adam",
    steps: int = 300,
    step_size: float = 1e-5,
    scale: float = 1.0,
    matrices: Callable[[str], bool] | None = None,
) -> Rule:
    """Rule of :func:`wudi`."""
    check_choice("solver", solver, ("adam", "exact"))
    check_count("steps", steps, 0)
    check_number("step_size", step_size, strict=True)
    check_number("scale", scale, -float("inf"))

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        moves = stack.sub_(base)
        whole = base.ndim == 2 and base.numel() > 0
        if not whole or not (matrices is None or matrices(name)):
            return shifted(base, moves.mean(0), scale)
        size = moves.square().sum((1, 2))
        moves = moves[size > 0]  # a task that did not move has no say
        total, pull = _moments(moves)
        start = moves.sum(0)
        if solver == "exact":
            found = start + _closest(pull - start @ total, total)
        else:
            found = _descend(start, total, pull, steps, step_size)
        return shifted(base, found, scale)

    return rule


def _moments(moves: Tensor) -> tuple[Tensor, Tensor]:
    """Quadratic form of the loss: its slope is `2 (tau @ total - pull)`."""
    columns = moves.shape[-1]
    total = moves.new_zeros(columns, columns)
    pull = moves.new_zeros(moves.shape[1:])
    for move in moves:
        square = move.mT @ move / move.square().sum()
        total += square
        pull += move @ square
    return total, pull


def _closest(right: Tensor, total: Tensor) -> Tensor:
    """Shortest solution `x` of `x @ total = right`."""
    values, vectors = torch.linalg.eigh(total)
    kept = values > _CUT * values[-1]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return ((right @ vectors) * inverse) @ vectors.mT


def _descend(
    start: Tensor, total: Tensor, pull: Tensor, steps: int, step_size: float
) -> Tensor:
    """Steps of Adam with the usual constants."""
    found = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([found], lr=step_size)
    for _ in range(steps):
        # the slope of a quadratic form needs no backward pass
        found.grad = 2 * (found.detach() @ total - pull)
        adam.step()
    return found.detach()
