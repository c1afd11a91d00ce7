"""Averages weighted by the curvature of each parameter: Fisher merging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.citations import cites
from pyro_geo.errors import LayoutMismatchError
from pyro_geo.summaries.merge._reader import (
    Reader,
    Rule,
    frame_of,
    run,
    shifted,
)
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Weights,
    of_each,
    read_weights,
)

__all__ = ["fisher"]


@cites("fisher_merging")
def fisher(
    base: StateDict,
    models: Models,
    *,
    statistics: Mapping[str, StateDict] | Sequence[StateDict],
    floor: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Average parameters, each weighted by its Fisher information in each task.

    .. math:: \theta_j = \frac{\sum_k w_k F_{kj} \theta_{kj}}{\sum_k w_k F_{kj}}.

    Where all :math:`F_{kj}` are zero it is the average.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        statistics: for each task what
            :func:`~pyro_geo.summaries.merge.statistics.fisher_diagonal` measured, or an
            opened checkpoint of it.
        floor: added to every :math:`F_{kj}`: pulls towards the average.
        scale: of the merged difference from the base.
        weights: of the tasks; equal if None.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict. Statistics that do not fit the tensors are a
        :class:`~pyro_geo.errors.LayoutMismatchError`.

    References:
        Matena and Raffel (2022), Merging models with Fisher-weighted averaging,
        arXiv 2111.09832.

    Example:
        >>> base = {"w": torch.zeros(2)}
        >>> models = [{"w": torch.ones(2)}, {"w": torch.zeros(2)}]
        >>> diagonals = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 0])}]
        >>> fisher(base, models, statistics=diagonals)
        {'w': tensor([0.7500, 0.5000])}
    """
    options = {
        "statistics": statistics,
        "floor": floor,
        "scale": scale,
        "weights": weights,
    }
    return run(base, models, fisher_rule, options, shared, dtype)


def fisher_rule(
    reader: Reader,
    statistics: Mapping[str, StateDict] | Sequence[StateDict],
    floor: float = 0.0,
    scale: float = 1.0,
    weights: Weights = None,
) -> Rule:
    """Rule of :func:`fisher`."""
    check_number("floor", floor)
    check_number("scale", scale, -float("inf"))
    diagonals = of_each(statistics, reader.tasks, "statistics")
    share = read_weights(weights, reader.tasks)
    for task, state in diagonals.items():
        frame = frame_of(state)
        for name in reader.names:
            _check_fit(task, name, frame, reader.shape(name))

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        mean = torch.tensordot(share.to(stack), stack, 1)
        total, pull = torch.zeros_like(mean), torch.zeros_like(mean)
        pairs = zip(share.tolist(), stack, diagonals.items(), strict=True)
        for weight, value, (task, state) in pairs:
            diagonal = state[name].to(stack)
            good = bool((diagonal.isfinite() & (diagonal >= 0)).all())
            expected = "finite numbers of at least 0"
            check(good, f"statistics[{task!r}][{name!r}]", "others", expected)
            diagonal = weight * (diagonal + floor)
            total += diagonal
            pull += diagonal * (value - mean)
        merged = mean + pull / torch.where(total > 0, total, 1.0)
        return shifted(base, merged - base, scale) if scale != 1 else merged

    return rule


def _check_fit(task: str, name: str, state: StateDict, shape: torch.Size) -> None:
    if name not in state or state[name].shape != shape:
        found = tuple(state[name].shape) if name in state else "no such tensor"
        raise LayoutMismatchError(
            "statistics do not fit the tensors",
            where=f"task {task!r}, tensor {name!r}",
            found=found,
            expected=tuple(shape),
            todo="Measure them on networks of this architecture.",
        )
