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
    """Log-density of one position in nats, in two parts.

    Attributes:
        log_prior: of the latent sites, with log-Jacobians.
        log_likelihood: of the data.
    """

    log_prior: Tensor
    log_likelihood: Tensor


class Observation(NamedTuple):
    """One observed site at one position.

    Attributes:
        fn: its distribution there.
        value: the data.
        scale: factor of its log-probability.
        mask: which data count; None for all.
    """

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
        """Log-likelihood of each datum, or of data that cannot be told apart."""
        ...

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the tensors out of new arguments of the same structure."""
        ...

    def check_data(self, data: Data) -> None:
        """Refuse tensors of the right shapes that would change the layout."""
        ...


def cast(leaves: Sequence[Any], dtype: torch.dtype) -> Data:
    """Detach tensors and cast the floating ones to `dtype`; others are not copied."""
    return tuple(
        leaf.detach().to(dtype) if leaf.is_floating_point() else leaf.detach()
        for leaf in leaves
    )
