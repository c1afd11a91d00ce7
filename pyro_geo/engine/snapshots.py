"""States of kernels as JSON and arrays, and back, without executing anything."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.torch import version_of
from pyro_geo.errors import CheckpointError, UnsupportedError
from pyro_geo.io.store import Snapshot

__all__ = ["StateCodec", "state_types"]


def state_types(*roots: Any) -> dict[str, type]:
    """Collect the record types that a state of a given type can hold.

    Args:
        *roots: types, or annotations such as `State | None`.

    Returns:
        Named tuples and data classes by name, found through their annotations.

    Example:
        >>> class State(typing.NamedTuple):
        ...     q: Tensor
        >>> list(state_types(State | None))
        ['State']
    """
    types: dict[str, type] = {}
    for root in roots:
        _collect(root, types)
    return types


class StateCodec:
    """Encode states as snapshots and decode them; each array is written once.

    A tensor that was part of the last snapshot, and was not changed since, is not
    copied again: the next one names the commit that holds it.

    Args:
        *roots: types of the states.

    Example:
        >>> class State(typing.NamedTuple):
        ...     q: Tensor
        ...     potential: Tensor
        >>> codec, state = StateCodec(State), State(torch.ones(2, 3), torch.zeros(2))
        >>> first = codec.snapshot(state, commit=0)
        >>> second = codec.snapshot(state._replace(potential=torch.ones(2)), commit=1)
        >>> list(first.arrays), list(second.arrays), second.commits
        (['0.0', '0.1'], ['1.0'], frozenset({0}))
        >>> StateCodec(State).restore(first.doc, first.arrays).q.shape
        torch.Size([2, 3])
    """

    def __init__(self, *roots: Any) -> None:
        self._types = state_types(*roots)
        # the tensors are kept: another one at the same address would be taken for them
        self._held: dict[tuple[int, int], tuple[Tensor, str]] = {}

    def snapshot(self, state: Any, commit: int) -> Snapshot:
        """Describe a state.

        Args:
            state: named tuples and data classes of the type given, lists, tuples,
                dictionaries, tensors, numbers and texts.
            commit: number that new arrays are named after.

        Returns:
            The snapshot. Another type in it is an
            :class:`~pyro_geo.errors.UnsupportedError`.
        """
        held: dict[tuple[int, int], tuple[Tensor, str]] = {}
        new: dict[str, np.ndarray] = {}

        def name(tensor: Tensor) -> str:
            key = (id(tensor), version_of(tensor))
            if key not in held:
                if key in self._held:
                    held[key] = self._held[key]
                else:
                    held[key] = (tensor, f"{commit}.{len(new)}")
                    new[held[key][1]] = tensor.detach().cpu().numpy()
            return held[key][1]

        doc = self._pack(state, name)
        self._held = held
        commits = {int(text.split(".")[0]) for _, text in held.values()} - {commit}
        return Snapshot(doc, new, frozenset(commits))

    def restore(
        self,
        doc: Any,
        arrays: Mapping[str, np.ndarray],
        device: torch.device | str = "cpu",
    ) -> Any:
        """Build a state again.

        Args:
            doc: of a snapshot.
            arrays: all that it names.
            device: where tensors go.

        Returns:
            The state.

        Raises:
            CheckpointError: something in it does not fit the types.
        """
        tensors: dict[str, Tensor] = {}

        def tensor(name: str) -> Tensor:
            if name not in tensors:
                value = torch.from_numpy(np.array(arrays[name])).to(device)
                tensors[name] = value
                self._held[id(value), version_of(value)] = (value, name)
            return tensors[name]

        try:
            return self._unpack(doc, tensor)
        except (KeyError, TypeError, ValueError) as reason:
            raise CheckpointError(
                "a stored state does not fit the kernel",
                where="store",
                found=f"{type(reason).__name__}: {reason}",
                expected=f"a state made of {sorted(self._types)}",
                todo="Go on with the kernel that began the run.",
            ) from reason

    def _pack(self, value: Any, name: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return {"tensor": name(value)}
        kind = type(value)
        if self._types.get(kind.__name__) is kind:
            fields = {
                f: self._pack(getattr(value, f), name) for f in _field_names(kind)
            }
            return {"record": kind.__name__, "fields": fields}
        if isinstance(value, Mapping):
            pairs = [[k, self._pack(v, name)] for k, v in value.items()]
            return {"mapping": pairs}
        if kind is tuple:
            return {"tuple": [self._pack(v, name) for v in value]}
        if isinstance(value, Sequence):
            return [self._pack(v, name) for v in value]
        raise UnsupportedError(
            "a state cannot be stored",
            where="state of the kernel",
            found=kind.__name__,
            expected=f"tensors, numbers, texts, or one of {sorted(self._types)}",
            todo="Name its type in the annotations of the kernel's state_type.",
        )

    def _unpack(self, doc: Any, tensor: Any) -> Any:
        if isinstance(doc, list):
            return [self._unpack(v, tensor) for v in doc]
        if not isinstance(doc, dict):
            return doc
        if "tensor" in doc:
            return tensor(doc["tensor"])
        if "tuple" in doc:
            return tuple(self._unpack(v, tensor) for v in doc["tuple"])
        if "mapping" in doc:
            return {k: self._unpack(v, tensor) for k, v in doc["mapping"]}
        kind = self._types[doc["record"]]
        return kind(**{k: self._unpack(v, tensor) for k, v in doc["fields"].items()})


def _field_names(kind: type) -> Sequence[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return kind._fields  # pyright: ignore[reportAttributeAccessIssue]


def _collect(annotation: Any, types: dict[str, type]) -> None:
    for part in typing.get_args(annotation):
        _collect(part, types)
    if not isinstance(annotation, type):
        return
    record = dataclasses.is_dataclass(annotation) or hasattr(annotation, "_fields")
    if record and annotation.__name__ not in types:
        types[annotation.__name__] = annotation
        for hint in _hints(annotation):
            _collect(hint, types)


def _hints(kind: type) -> Iterator[Any]:
    yield from typing.get_type_hints(kind).values()
