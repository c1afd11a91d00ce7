"""Where the values of the steps of a filter are: in memory, or in a store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyro_geo.checks import check_shape

__all__ = ["MemorySteps", "Steps"]

_ALL = slice(None)


class Steps(Protocol):
    """The finished steps of many series. Tensors lead with `(series, time)`."""

    @property
    def num_series(self) -> int:
        """How many series there are."""
        ...

    @property
    def num_steps(self) -> int:
        """Finished steps of each."""
        ...

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Value to its shape at one step of one series."""
        ...

    @property
    def folder(self) -> str | os.PathLike[str] | None:
        """The store that alone holds the values; None where they are in memory."""
        ...

    def read(self, names: Sequence[str], steps: slice = _ALL) -> dict[str, Tensor]:
        """Read values.

        Args:
            names: which.
            steps: of which steps.

        Returns:
            Name to `(series, time, *shape)`.
        """
        ...


class MemorySteps:
    """Values in memory.

    Args:
        values: name to `(series, time, *shape)`.

    Example:
        >>> steps = MemorySteps({"mean": torch.zeros(2, 5, 1)})
        >>> steps.num_series, steps.num_steps, steps.shapes["mean"]
        (2, 5, torch.Size([1]))
    """

    folder = None

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        lead = next(iter(values.values())).shape[:2]
        for name, value in values.items():
            good = value.dim() >= 2 and value.shape[:2] == lead
            check_shape(name, value.shape, f"{tuple(lead)} and more", good)
        self._values = dict(values)

    @property
    def num_series(self) -> int:
        """How many series there are."""
        return next(iter(self._values.values())).shape[0]

    @property
    def num_steps(self) -> int:
        """Steps of each."""
        return next(iter(self._values.values())).shape[1]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Value to its shape at one step of one series."""
        return {name: value.shape[2:] for name, value in self._values.items()}

    def read(self, names: Sequence[str], steps: slice = _ALL) -> dict[str, Tensor]:
        """Read values.

        Args:
            names: which.
            steps: of which steps.

        Returns:
            Name to `(series, time, *shape)`.
        """
        return {name: self._values[name][:, steps] for name in names}
