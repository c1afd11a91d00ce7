"""Networks to merge, read one tensor of all tasks at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Weights,
    check_finite,
    of_each,
    read_tasks,
    read_weights,
    task_names,
)

__all__ = ["Reader", "Rule", "elementwise", "frame_of", "merge_all", "run", "shifted"]

# merges one tensor: its name, its value in the base and its values in all tasks
Rule = Callable[[str, Tensor, Tensor], Tensor]
PIECE = 1 << 22  # numbers of one tensor at once, where elements are merged apart


class Reader:
    """A base and its fine-tuned copies, of which one tensor is in memory at a time.

    Names, shapes and types are compared at once; numbers are checked when they are
    read. State dicts may be mappings that open a file.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        shared: whether the tensor of a name is merged.
        dtype: to compute in.
    """

    def __init__(
        self,
        base: StateDict,
        models: Models,
        *,
        shared: Callable[[str], bool] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check(dtype.is_floating_point, "dtype", dtype, "a floating type")
        names = task_names(models)
        self._base, self._models = base, of_each(models, names, "models")
        frames = {task: frame_of(state) for task, state in self._models.items()}
        self._tasks = read_tasks(frame_of(base), frames, shared=shared)
        self.tasks = names
        self.dtype = dtype
        self.names = tuple(self._tasks.base)
        self.kept = tuple(self._tasks.kept)

    def shape(self, name: str) -> torch.Size:
        """Shape of a tensor that is merged."""
        return self._tasks.base[name].shape

    def read(self, name: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Read one tensor, or some rows of it.

        Args:
            name: of the tensor.
            rows: of its first axis.

        Returns:
            Its value in the base, and in all tasks, `(tasks, *shape)`, on the device
            of the base.
        """
        raw = _rows_of(self._base, name, rows)
        check_finite("the base", {name: raw})
        like = {"device": raw.device, "dtype": self.dtype}
        stack = torch.empty((len(self.tasks), *raw.shape), **like)
        for row, task in zip(stack, self.tasks, strict=True):
            value = _rows_of(self._models[task], name, rows)
            check_finite(f"task {task!r}", {name: value})
            row.copy_(value)
        return raw.to(self.dtype), stack

    def differences(
        self, name: str, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Read one tensor of the base, and its differences in all tasks."""
        start, stack = self.read(name, rows)
        return start, stack.sub_(start)

    def pieces(self, name: str) -> list[slice]:
        """Cut a large tensor along its first axis."""
        shape = self.shape(name)
        if shape.numel() <= PIECE:
            return [slice(None)]
        step = max(1, PIECE // shape[1:].numel())
        return [slice(start, start + step) for start in range(0, shape[0], step)]

    def merged(
        self, rule: Rule, weights: Weights = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Merge tensor by tensor.

        Args:
            rule: for one tensor.
            weights: of the tasks, for the mean of running statistics.

        Yields:
            Name and value, in the order and the types of the base.
        """
        share = read_weights(weights, self.tasks)
        for name in self._tasks.order:
            frame = self._tasks.base.get(name)
            if name in self._tasks.kept:
                yield name, self._base[name].detach().clone()
            elif frame is None:
                _, stack = self.read(name)
                mean = torch.tensordot(share.to(stack), stack, 1)
                yield name, mean.to(self._base[name].dtype)
            else:
                yield name, self._apply(rule, name).to(frame.dtype)

    def _apply(self, rule: Rule, name: str) -> Tensor:
        pieces = self.pieces(name) if hasattr(rule, "elementwise") else [slice(None)]
        if len(pieces) == 1:
            return rule(name, *self.read(name))
        dtype = self._tasks.base[name].dtype
        return torch.cat([rule(name, *self.read(name, p)).to(dtype) for p in pieces])


def run(
    base: StateDict,
    models: Models,
    make: Callable[..., Rule],
    options: dict[str, Any],
    shared: Callable[[str], bool] | None,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Merge state dicts by a rule.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        make: the rule, from a reader and options.
        options: of the rule.
        shared: whether the tensor of a name is merged.
        dtype: to compute in.

    Returns:
        The merged state dict.
    """
    reader = Reader(base, models, shared=shared, dtype=dtype)
    return dict(merge_all(reader, make, options))


@torch.no_grad()
def merge_all(
    reader: Reader, make: Callable[..., Rule], options: dict[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Merge tensor by tensor, from a rule that is yet to be made.

    Args:
        reader: of the networks.
        make: the rule, from a reader and options.
        options: of the rule.

    Yields:
        Name and value.
    """
    rule = make(reader, **options)
    yield from reader.merged(rule, options.get("weights"))


def elementwise(rule: Rule) -> Rule:
    """Mark a rule that merges each element apart, so that pieces of tensors suffice."""
    vars(rule)["elementwise"] = True
    return rule


def shifted(base: Tensor, step: Tensor, scale: float) -> Tensor:
    """Move the base by a scaled step."""
    return torch.add(base, step, alpha=scale)


def frame_of(state: StateDict) -> dict[str, Tensor]:
    """Make stand-ins of the same shapes and types that hold a single number.

    Args:
        state: tensors, or a mapping that reads them from files.

    Returns:
        Name to stand-in.
    """
    frame = getattr(state, "frame", None)
    if frame is not None:
        return frame()
    return {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in state.items()
    }


def _rows_of(state: StateDict, name: str, rows: slice) -> Tensor:
    """Some rows of a tensor; of a file no more is read."""
    part = getattr(state, "rows", None)
    if part is not None:
        return part(name, rows)
    value = state[name].detach()
    return value if rows == slice(None) else value[rows]
