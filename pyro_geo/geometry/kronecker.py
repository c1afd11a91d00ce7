r"""Positive-definite matrices put together from small ones: products and sums.

- :class:`Kronecker`: one small matrix for each axis of a tensor,
  :math:`A_1 \otimes A_2 \otimes \dots`, which acts on the tensor's rows written out.
- :class:`Block`: matrices of named groups of coordinates, zero between the groups.

Neither is ever written out, except by `dense`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import PositiveDefinite

__all__ = ["Block", "Kronecker"]


class Kronecker(NamedTuple):
    r"""The product :math:`A_1 \otimes A_2 \otimes \dots` of small matrices.

    For a matrix `G` and two factors, `matvec` of its rows one after another is
    :math:`A_1 G A_2`, written out in the same way.

    Attributes:
        factors: one for each axis.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> one, two = Diagonal(torch.tensor([1.0, 2.0])), Diagonal(torch.ones(1))
        >>> Kronecker((one, two)).dense().tolist()
        [[1.0, 0.0], [0.0, 4.0]]
    """

    factors: tuple[PositiveDefinite, ...]

    @property
    def dim(self) -> int:
        """Number of rows."""
        return functools.reduce(lambda n, factor: n * factor.dim, self.factors, 1)

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self._each(x, lambda factor, rows: factor.matvec(rows))

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return self._each(x, lambda factor, rows: factor.solve(rows))

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        # log det (A x B) = n_B log det A + n_A log det B
        terms = [f.logdet() * (self.dim // f.dim) for f in self.factors]
        return torch.stack(terms).sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return self._each(noise, lambda factor, rows: factor.sample(rows))

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return self._each(noise, lambda factor, rows: factor.sample_inverse(rows))

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return self._each(x, lambda factor, rows: factor.root_solve(rows))

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return (x * self.matvec(x)).sum(-1).clamp(min=0).sqrt()

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return functools.reduce(torch.kron, [f.dense() for f in self.factors])

    def _each(
        self, x: Tensor, act: Callable[[PositiveDefinite, Tensor], Tensor]
    ) -> Tensor:
        """Let each factor act on its own axis."""
        lead = x.shape[:-1]
        tensor = x.reshape(*lead, *(factor.dim for factor in self.factors))
        for axis, factor in enumerate(self.factors, len(lead)):
            tensor = act(factor, tensor.movedim(axis, -1)).movedim(-1, axis)
        return tensor.reshape(x.shape)


class Block(NamedTuple):
    """Matrices of named groups of coordinates, one group after another.

    Attributes:
        parts: group to its matrix, in the order of the coordinates.

    Example:
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> one, two = Diagonal(torch.tensor([1.0])), Diagonal(torch.tensor([2.0]))
        >>> Block({"one": one, "two": two}).matvec(torch.ones(2)).tolist()
        [1.0, 4.0]
    """

    parts: Mapping[str, PositiveDefinite]

    @property
    def dim(self) -> int:
        """Number of rows."""
        return sum(part.dim for part in self.parts.values())

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """Cut rows into the coordinates of each group, `(..., dim of the group)`."""
        sizes = [part.dim for part in self.parts.values()]
        return dict(zip(self.parts, x.split(sizes, dim=-1), strict=True))

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self._each(x, lambda part, rows: part.matvec(rows))

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return self._each(x, lambda part, rows: part.solve(rows))

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        return torch.stack([part.logdet() for part in self.parts.values()]).sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return self._each(noise, lambda part, rows: part.sample(rows))

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return self._each(noise, lambda part, rows: part.sample_inverse(rows))

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return self._each(x, lambda part, rows: part.root_solve(rows))

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        rows = self.split(x)
        lengths = [part.norm(rows[name]) for name, part in self.parts.items()]
        return torch.stack(lengths).square().sum(0).sqrt()

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return torch.block_diag(*(part.dense() for part in self.parts.values()))

    def _each(
        self, x: Tensor, act: Callable[[PositiveDefinite, Tensor], Tensor]
    ) -> Tensor:
        rows = self.split(x)
        found = [act(part, rows[name]) for name, part in self.parts.items()]
        return torch.cat(found, dim=-1)
