"""What a target needs of a density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_geo.density.layout import Layout

__all__ = ["Data", "Density", "Observation", "Terms", "cast"]

Data = tuple[Tensor, ...]


class Terms(NamedTuple):
    """Log-density of one position, in nats, split in two."""

    log_prior: Tensor
    log_likelihood: Tensor


class Observation(NamedTuple):
    """One observed site at one position."""

    fn: Any
    value: Tensor
    scale: float | Tensor
    mask: bool | Tensor | None


class Density(Protocol):
    """A log-density of one flat position whose tensors of data come as arguments."""

    layout: Layout

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior (with log-Jacobians) and log-likelihood of `q`, `(dim,)`."""
        ...

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum by observed site, unscaled."""
        ...

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Tensors among new arguments, given as they were at first."""
        ...

    def check_data(self, data: Data) -> None:
        """Refuse tensors of the right shapes that would change the layout."""
        ...


def cast(leaves: Sequence[Any], dtype: torch.dtype) -> Data:
    """Copy nothing but what has another floating type than `dtype`."""
    return tuple(
        leaf.detach().to(dtype) if leaf.is_floating_point() else leaf.detach()
        for leaf in leaves
    )
