"""A base network and its fine-tuned copies, checked and brought into one order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import (
    AveragedStatisticsWarning,
    LayoutMismatchError,
    NonFiniteParameterError,
)

__all__ = [
    "Models",
    "StateDict",
    "Tasks",
    "Weights",
    "check_finite",
    "of_each",
    "read_further",
    "read_tasks",
    "read_weights",
    "task_names",
]

StateDict = Mapping[str, Tensor]
Models = Mapping[str, StateDict] | Sequence[StateDict]
Weights = str | Tensor | Mapping[str, float] | Sequence[float] | None
Value = TypeVar("Value")

_STATISTICS = ("running_mean", "running_var")


class Tasks(NamedTuple):
    """What is merged, and what is carried along.

    Attributes:
        names: of the tasks.
        base: floating tensors of the base that are merged, in its order and types.
        models: for each task its tensors of the same names.
        statistics: running statistics of batch normalisation, for each task.
        kept: tensors that keep the value of the base.
        order: names of all tensors, as in the base.
        own: for each task its tensors that are not merged: heads and buffers.
    """

    names: tuple[str, ...]
    base: dict[str, Tensor]
    models: dict[str, dict[str, Tensor]]
    statistics: dict[str, dict[str, Tensor]]
    kept: dict[str, Tensor]
    order: tuple[str, ...]
    own: dict[str, dict[str, Tensor]]

    def differences(
        self, dtype: torch.dtype = torch.float64
    ) -> dict[str, dict[str, Tensor]]:
        """Subtract the base from each task, tensor by tensor.

        Args:
            dtype: to compute in.

        Returns:
            Task to its differences.
        """
        return {
            task: {
                name: x.to(dtype) - self.base[name].to(dtype)
                for name, x in state.items()
            }
            for task, state in self.models.items()
        }

    def complete(
        self, merged: Mapping[str, Tensor], weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add what is carried along to merged tensors.

        Args:
            merged: a value for each tensor of `base`.
            weights: of the tasks, for the mean of running statistics; equal if None.

        Returns:
            A new state dict in the order and the types of the base.
        """
        share = read_weights(weights, self.names)
        state: dict[str, Tensor] = {}
        for name in self.order:
            if name in self.base:
                like = self.base[name]
                state[name] = merged[name].to(like.device, like.dtype)
            elif name in self.kept:
                state[name] = self.kept[name].clone()
            else:
                rows = [self.statistics[task][name] for task in self.names]
                pairs = zip(share.tolist(), rows, strict=True)
                mean = torch.stack([w * row.double() for w, row in pairs]).sum(0)
                state[name] = mean.to(rows[0].dtype)
        return state


def read_tasks(
    base: StateDict, models: Models, *, shared: Callable[[str], bool] | None = None
) -> Tasks:
    """Check a base and its fine-tuned copies, and sort their tensors.

    Integer and boolean tensors are copied from the base. Nothing is copied or
    converted otherwise: the tensors are those given, detached.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors; of a sequence the names are `"task 0"`, ….
        shared: whether the tensor of a name is merged; the others keep the value of
            the base. By default all are.

    Returns:
        The tasks. Names or shapes that differ are a
        :class:`~pyro_geo.errors.LayoutMismatchError`, NaN or infinite numbers a
        :class:`~pyro_geo.errors.NonFiniteParameterError`.

    Warns:
        AveragedStatisticsWarning: running statistics of batch normalisation are
            among the tensors.
    """
    names = task_names(models)
    states = of_each(models, names, "models")
    merged, statistics, kept = _sorted_names(base, shared)
    start = _pick(base, merged)
    check_finite("the base", start)
    chosen = read_further(base, states, shared=shared)
    running = {task: _pick(state, statistics) for task, state in states.items()}
    if statistics:
        warnings.warn(
            AveragedStatisticsWarning(
                "running statistics of batch normalisation are averaged",
                where=", ".join(statistics[:4]),
                found=f"{len(statistics)} such tensors",
                expected="statistics of the merged network",
                todo="Run the merged network in training mode over inputs of all tasks "
                "to renew them.",
            ),
            stacklevel=3,
        )
    own = {
        task: _pick(state, [name for name in state if name not in start])
        for task, state in states.items()
    }
    return Tasks(names, start, chosen, running, _pick(base, kept), tuple(base), own)


def read_further(
    base: StateDict,
    states: Mapping[str, StateDict],
    *,
    shared: Callable[[str], bool] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Check networks against a base, and pick the tensors that are merged.

    Args:
        base: as for :func:`read_tasks`.
        states: name to tensors.
        shared: whether the tensor of a name is merged.

    Returns:
        Name to tensors. What :func:`read_tasks` refuses is refused here.
    """
    merged, statistics, _ = _sorted_names(base, shared)
    wanted = shared or (lambda name: True)
    for name, state in states.items():
        _check_layout(base, state, name, wanted, {*merged, *statistics})
    for name, state in states.items():
        check_finite(f"task {name!r}", _pick(state, [*merged, *statistics]))
    return {name: _pick(state, merged) for name, state in states.items()}


def read_weights(
    weights: Weights,
    names: Sequence[str],
) -> Tensor:
    """Check and normalise the weights of the tasks.

    Args:
        weights: None or `"uniform"` for equal ones; else one for each task, in their
            order or by name.
        names: of the tasks.

    Returns:
        Positive weights with sum 1, `(tasks,)`, in double precision.
    """
    if weights is None or (isinstance(weights, str) and weights == "uniform"):
        return torch.full((len(names),), 1 / len(names), dtype=torch.float64)
    expected = f"{len(names)} finite numbers above 0"
    if isinstance(weights, Mapping):
        good = set(weights) == set(names)
        check(good, "weights", list(weights), f"one for each of {list(names)}")
        weights = [float(weights[name]) for name in names]
    check(not isinstance(weights, str), "weights", repr(weights), expected)
    values = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    good = values.shape == (len(names),) and bool(
        (values.isfinite() & (values > 0)).all()
    )
    check(good, "weights", values.tolist(), expected)
    return values / values.sum()


def task_names(models: Mapping[str, Any] | Sequence[Any]) -> tuple[str, ...]:
    """Name the tasks: the keys of a mapping, or numbers.

    Args:
        models: by name, or in order.

    Returns:
        The names.
    """
    expected = "a mapping from task to state dict, or a sequence of state dicts"
    good = isinstance(models, Mapping | Sequence) and not isinstance(models, str)
    check(good, "models", type(models).__name__, expected)
    check(len(models) > 0, "models", "none", "at least one model")
    if not isinstance(models, Mapping):
        return tuple(f"task {k}" for k in range(len(models)))
    alone = any(isinstance(value, Tensor) for value in models.values())
    check(not alone, "models", "one state dict", expected)
    return tuple(models)


def of_each(
    values: Mapping[str, Value] | Sequence[Value], names: Sequence[str], argument: str
) -> dict[str, Value]:
    """Bring what is given for each task into one order.

    Args:
        values: by name, or in the order of the tasks.
        names: of the tasks.
        argument: name of the argument, for the message.

    Returns:
        Task to value.
    """
    expected = f"one for each of {list(names)}"
    if isinstance(values, Mapping):
        check(set(values) == set(names), argument, list(values), expected)
        return {name: values[name] for name in names}
    check(len(values) == len(names), argument, len(values), expected)
    return dict(zip(names, values, strict=True))


def _sorted_names(
    base: StateDict, shared: Callable[[str], bool] | None
) -> tuple[list[str], list[str], list[str]]:
    """Names that are merged, that are running statistics, and that stay."""
    merged: list[str] = []
    statistics: list[str] = []
    kept: list[str] = []
    for name, value in base.items():
        if not value.is_floating_point() or not (shared is None or shared(name)):
            kept.append(name)
        elif name.rpartition(".")[2] in _STATISTICS:
            statistics.append(name)
        else:
            merged.append(name)
    check(bool(merged), "base", "no floating tensor to merge", "at least one")
    return merged, statistics, kept


def _pick(state: StateDict, names: Sequence[str]) -> dict[str, Tensor]:
    return {name: state[name].detach() for name in names}


def _check_layout(
    base: StateDict,
    state: StateDict,
    task: str,
    wanted: Callable[[str], bool],
    floating: set[str],
) -> None:
    """Refuse a model whose shared tensors are not those of the base."""
    for name in filter(wanted, (*base, *(name for name in state if name not in base))):
        sides = [_described(side, name) for side in (state, base)]
        same = sides[0] == sides[1]
        if same and name in floating and not state[name].is_floating_point():
            sides[0] += f" of {state[name].dtype}"
            same = False
        if not same:
            raise LayoutMismatchError(
                "a model does not have the tensors of the base",
                where=f"task {task!r}, tensor {name!r}",
                found=sides[0],
                expected=sides[1],
                todo="Merge copies of one architecture; leave heads of their own out "
                "of all state dicts, or name them by `shared`.",
            )


def _described(state: StateDict, name: str) -> str:
    return f"shape {tuple(state[name].shape)}" if name in state else "no such tensor"


def check_finite(owner: str, state: StateDict) -> None:
    """Refuse tensors with NaN or infinite numbers.

    Args:
        owner: of the tensors, for the message.
        state: the tensors.

    Raises:
        NonFiniteParameterError: one is not finite.
    """
    for name, value in state.items():
        bad = int((~value.isfinite()).sum())
        if bad:
            raise NonFiniteParameterError(
                "a tensor to merge is not finite",
                where=f"{owner}, tensor {name!r}",
                found=f"{bad} of {value.numel()} numbers NaN or infinite",
                expected="finite numbers",
                todo="Train this network again, or leave it out.",
            )
