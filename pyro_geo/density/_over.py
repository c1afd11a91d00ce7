"""A model that another one stands behind, with tensors of its own before its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.density.model import ModelDensity
from pyro_geo.density.protocol import Data

__all__ = ["ModelOver"]


class ModelOver(ModelDensity):
    """A model whose observed sites count otherwise than in the model behind it.

    It stays a model: its sites, their names and its curvature are there as before.

    Args:
        inner: the model behind it, which may be such a one itself.
        count: tensors of its own, before the data of the other.
    """

    def __init__(self, inner: ModelDensity, count: int) -> None:
        # what is known about the model holds here too
        self.__dict__.update(inner.__dict__)
        self.inner = inner
        self.count = count

    def _has_own_memory(self) -> bool:
        return self.inner.own_memory

    def _set_own_memory(self, value: bool) -> None:
        self.inner.own_memory = value

    # one answer for all models that stand behind each other
    own_memory: bool = cast(Any, property(_has_own_memory, _set_own_memory))

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the own tensors, and those of the model out of new arguments.

        Args:
            *args: the own tensors first, then the arguments of the model.
            **kwargs: keyword arguments of the model.

        Returns:
            The tensors in this order.
        """
        own = tuple(torch.as_tensor(x) for x in args[: self.count])
        return (*own, *self.inner.rebind(*args[self.count :], **kwargs))

    def arguments(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the model's arguments; the own tensors are none of them."""
        return self.inner.arguments(data[self.count :])

    def pointwise(
        self, q: Tensor, data: Data, *, steps: bool = False
    ) -> dict[str, Tensor]:
        """Log-likelihood of each datum, as the model behind gives it."""
        return self.inner.pointwise(q, data[self.count :], steps=steps)

    def _conditioned(
        self, values: Mapping[str, Tensor], data: Data
    ) -> tuple[poutine.Trace, dict[str, Any]]:
        return self.inner._conditioned(values, data[self.count :])
