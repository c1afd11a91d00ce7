"""What every result has beside its numbers: facts, notes, works behind it, copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pyro_geo.results._pickling import dumped, loaded

__all__ = ["Facts"]


class Facts:
    """The facts of a run, and how a result is copied and pickled.

    Args:
        attributes: facts of the run, texts and numbers.
        notes: warnings of the run.
        citations: keys of the works behind the result.
    """

    def __init__(
        self,
        attributes: Mapping[str, str | int | float] | None = None,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
    ) -> None:
        self._attributes = dict(attributes or {})
        self._notes = list(notes)
        self._citations = tuple(citations)

    @property
    def attributes(self) -> dict[str, str | int | float]:
        """Facts of the run, texts and numbers by name."""
        return dict(self._attributes)

    @property
    def notes(self) -> list[str]:
        """Warnings of the run, and steps down the ladder."""
        return list(dict.fromkeys(self._notes))

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the works behind the result."""
        return self._citations

    def __repr__(self) -> str:
        """Say in a few words what there is."""
        return f"{type(self).__name__}({self._described})"

    @property
    def _described(self) -> str:
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with functions that have no module, such as a lambda as model."""
        return loaded, (dumped(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy all but functions, which have no state of their own."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other
