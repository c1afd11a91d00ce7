"""Densities that stand before another, with tensors of their own before its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.density.layout import Layout
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.protocol import Data, Density

__all__ = ["ModelOver", "Over"]

Inner = TypeVar("Inner", bound=Density)


class Over(Generic[Inner]):
    """A density whose data count otherwise than in the density behind it.

    Args:
        inner: the density behind it, which may be such a one itself.
        count: tensors of its own, before the data of the other.
    """

    def __init__(self, inner: Inner, count: int) -> None:
        self.inner = inner
        self.count = count
        self.layout: Layout = inner.layout
        self.own_memory = inner.own_memory

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the own tensors, and those of the density out of new arguments.

        Args:
            *args: the own tensors first, then the arguments of the density.
            **kwargs: keyword arguments of the density.

        Returns:
            The tensors in this order.
        """
        own = tuple(torch.as_tensor(x) for x in args[: self.count])
        return (*own, *self.inner.rebind(*args[self.count :], **kwargs))

    def check_data(self, data: Data) -> None:
        """Refuse what the density refuses."""
        self.inner.check_data(data[self.count :])


class ModelOver(Over[ModelDensity], ModelDensity):
    """A model whose observed sites count otherwise than in the model behind it.

    It stays a model: its sites, their names and its curvature are there as before.

    Args:
        inner: the model behind it, which may be such a one itself.
        count: tensors of its own, before the data of the other.
    """

    def __init__(self, inner: ModelDensity, count: int) -> None:
        # what is known about the model holds here too
        self.__dict__.update(inner.__dict__)
        super().__init__(inner, count)

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
