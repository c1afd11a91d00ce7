r"""Affine subspaces of parameters that lie in memory tensor by tensor.

A point is :math:`\theta = \theta_0 + B z` with orthonormal columns `B`. The matrix `B`
is never formed: each block of columns belongs to a few tensors, and is stored dense
where it is small, as factors where it is large, and not at all for the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import LayoutMismatchError

__all__ = ["Block", "DenseBlock", "FactoredBlock", "IdentityBlock", "Subspace"]

StateDict = Mapping[str, Tensor]
_TANGENTS = 1 << 24  # numbers in one batch of directions
_MOST = 64  # directions in one batch


class Block(Protocol):
    """Columns of a basis that are zero outside some tensors."""

    @property
    def dim(self) -> int:
        """Number of columns."""
        ...

    @property
    def size(self) -> int:
        """Number of coordinates of the tensors that they touch."""
        ...

    def project(self, state: StateDict) -> Tensor:
        """Inner products of the columns with a difference of parameters, `(dim,)`."""
        ...

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Sums of columns: `(..., dim)` to tensors `(..., *shape)`."""
        ...

    def to(self, like: Tensor) -> Block:
        """The same block in the type and on the device of a tensor."""
        ...


class DenseBlock(NamedTuple):
    """Columns written out.

    Attributes:
        rows: tensor name to its part of each column, `(dim, *shape)`.
    """

    rows: dict[str, Tensor]

    @property
    def dim(self) -> int:
        """Number of columns."""
        return len(next(iter(self.rows.values())))

    @property
    def size(self) -> int:
        """Number of coordinates of the tensors that they touch."""
        return sum(rows[0].numel() for rows in self.rows.values())

    def project(self, state: StateDict) -> Tensor:
        """Inner products of the columns with a difference of parameters, `(dim,)`."""
        parts = [
            rows.flatten(1) @ state[name].to(rows).flatten()
            for name, rows in self.rows.items()
        ]
        return torch.stack(parts).sum(0)

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Sums of columns: `(..., dim)` to tensors `(..., *shape)`."""
        return {
            name: (z @ rows.flatten(1)).reshape((*z.shape[:-1], *rows.shape[1:]))
            for name, rows in self.rows.items()
        }

    def to(self, like: Tensor) -> DenseBlock:
        """The same block in the type and on the device of a tensor."""
        return DenseBlock({name: rows.to(like) for name, rows in self.rows.items()})


class FactoredBlock(NamedTuple):
    r"""Columns of one matrix, as mixtures of outer products.

    .. math:: B_j = \sum_i M_{ij}\, u_i v_i^\top + \sum_e M_{ej}\, X_e

    Attributes:
        name: of the tensor.
        shape: of the tensor; it is a matrix of its first axis by all others.
        left: :math:`u_i` as columns, `(m, count)`.
        right: :math:`v_i` as columns, `(n, count)`.
        extra: further matrices, `(extra, m, n)`.
        mix: `M`, `(count + extra, dim)`.
    """

    name: str
    shape: torch.Size
    left: Tensor
    right: Tensor
    extra: Tensor
    mix: Tensor

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.mix.shape[1]

    @property
    def size(self) -> int:
        """Number of coordinates of the tensor."""
        return self.shape.numel()

    def project(self, state: StateDict) -> Tensor:
        """Inner products of the columns with a difference of parameters, `(dim,)`."""
        matrix = state[self.name].to(self.mix).reshape(len(self.left), -1)
        products = (self.left * (matrix @ self.right)).sum(0)
        others = self.extra.flatten(1) @ matrix.flatten()
        return torch.cat([products, others]) @ self.mix

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Sums of columns: `(..., dim)` to a tensor `(..., *shape)`."""
        count = self.left.shape[1]
        share = z @ self.mix.T
        matrix = (self.left * share[..., None, :count]) @ self.right.T
        if len(self.extra):
            matrix = matrix + torch.tensordot(share[..., count:], self.extra, 1)
        return {self.name: matrix.reshape((*z.shape[:-1], *self.shape))}

    def to(self, like: Tensor) -> FactoredBlock:
        """The same block in the type and on the device of a tensor."""
        parts = (self.left, self.right, self.extra, self.mix)
        return FactoredBlock(self.name, self.shape, *(part.to(like) for part in parts))


class IdentityBlock(NamedTuple):
    """One column for each coordinate of one tensor.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
    """

    name: str
    shape: torch.Size

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.shape.numel()

    @property
    def size(self) -> int:
        """Number of coordinates of the tensor."""
        return self.dim

    def project(self, state: StateDict) -> Tensor:
        """The coordinates of the tensor, `(dim,)`."""
        return state[self.name].flatten()

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Give the coordinates their shape, `(..., *shape)`."""
        return {self.name: z.reshape((*z.shape[:-1], *self.shape))}

    def to(self, like: Tensor) -> IdentityBlock:
        """The block itself, which holds no numbers."""
        return self


class Subspace:
    r"""An affine subspace :math:`\theta_0 + B z` of named tensors.

    Args:
        origin: :math:`\theta_0`, name to tensor. It is referred to, not copied.
        blocks: of columns; those of one tensor are orthonormal.
        center: coordinates of a point of interest, `(dim,)`: where metrics along a
            path lead to by default.
        dtype: of coordinates and of everything computed.

    Attributes:
        origin: as given.
        blocks: as given.
        center: as given, or zero.
        dim: number of coordinates.
        dtype: as given.

    Example:
        >>> origin = {"a": torch.zeros(2, dtype=torch.float64)}
        >>> line = DenseBlock({"a": torch.tensor([[0.6, 0.8]], dtype=torch.float64)})
        >>> subspace = Subspace(origin, [line])
        >>> z = subspace.coords({"a": torch.tensor([3.0, 4.0])})
        >>> round(z.item(), 6), subspace.point(z)["a"].tolist()
        (5.0, [3.0, 4.0])
    """

    def __init__(
        self,
        origin: StateDict,
        blocks: Sequence[Block],
        center: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check(bool(blocks), "blocks", "none", "at least one block of columns")
        self.origin = dict(origin)
        self.dtype = dtype
        like = next(iter(self.origin.values())).new_zeros((), dtype=dtype)
        self.blocks = tuple(block.to(like) for block in blocks)
        self.dim = sum(block.dim for block in blocks)
        self.center = like.new_zeros(self.dim) if center is None else center.to(like)
        check_shape("center", self.center.shape, (self.dim,))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.center.device

    def to(self, dtype: torch.dtype) -> Subspace:
        """The same subspace, with columns and coordinates of another type.

        Args:
            dtype: of the columns.

        Returns:
            The subspace.
        """
        return Subspace(self.origin, self.blocks, self.center, dtype=dtype)

    def project(self, difference: StateDict) -> Tensor:
        r"""Coordinates :math:`B^\top \tau` of a difference of parameters.

        Args:
            difference: name to tensor, all names of the origin.

        Returns:
            Coordinates, `(dim,)`. Other names or shapes are a
            :class:`~pyro_geo.errors.LayoutMismatchError`.
        """
        self._check(difference)
        parts = [block.project(difference) for block in self.blocks]
        return torch.cat([part.to(self.center) for part in parts])

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Differences `B z`, zero in tensors without a column.

        Args:
            z: coordinates, `(dim,)`.

        Returns:
            Name to tensor, all names of the origin.
        """
        check_shape("z", z.shape, (self.dim,))
        found: dict[str, Tensor] = {}
        for block, part in zip(self.blocks, self._split(z), strict=True):
            for name, value in block.lift(part).items():
                found[name] = found[name] + value if name in found else value
        return {
            name: found.get(name, torch.zeros_like(value, dtype=z.dtype))
            for name, value in self.origin.items()
        }

    def coords(self, state: StateDict) -> Tensor:
        """Coordinates of the point of the subspace that is nearest to parameters.

        Args:
            state: name to tensor; further names are left out.

        Returns:
            Coordinates, `(dim,)`.
        """
        return self.project(self.difference(state))

    def point(self, z: Tensor) -> dict[str, Tensor]:
        """Parameters at coordinates.

        Args:
            z: coordinates, `(dim,)`.

        Returns:
            Name to tensor, in the type of the subspace.
        """
        change = self.lift(z)
        return {name: x.to(z) + change[name] for name, x in self.origin.items()}

    def difference(self, state: StateDict) -> dict[str, Tensor]:
        """Subtract the origin from parameters.

        Args:
            state: name to tensor; further names are left out.

        Returns:
            Name to tensor, in the type of the subspace.
        """
        self._check(state)
        return {
            name: state[name].detach().to(self.center) - x.to(self.center)
            for name, x in self.origin.items()
        }

    def direction(self, index: int) -> dict[str, Tensor]:
        """One column, zero in tensors that it does not touch.

        Args:
            index: of the column.

        Returns:
            Name to tensor.
        """
        z = torch.zeros_like(self.center)
        z[index] = 1
        return self.lift(z)

    def batches(
        self, chunk_size: int | None = None
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Go through the columns, some at a time, without zeros of other tensors.

        Args:
            chunk_size: most columns at once; as many as fit in memory if None.

        Yields:
            Which columns, and name to their parts, `(count, *shape)`.
        """
        start = 0
        for block in self.blocks:
            most = chunk_size or max(1, min(_MOST, _TANGENTS // block.size))
            for first in range(0, block.dim, most):
                last = min(first + most, block.dim)
                rows = self.center.new_zeros(last - first, block.dim)
                rows[:, first:last].fill_diagonal_(1)
                yield slice(start + first, start + last), block.lift(rows)
            start += block.dim

    def signature(self) -> Tensor:
        """Numbers that tell this subspace from others of the same dimension.

        Returns:
            Inner products of the columns with a fixed pattern, `(dim,)`.
        """
        pattern = {}
        for number, (name, value) in enumerate(self.origin.items()):
            steps = torch.arange(value.numel(), device=self.device).to(self.dtype)
            pattern[name] = torch.cos(steps * 0.7 + number).reshape(value.shape)
        return self.project(pattern)

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split([block.dim for block in self.blocks], -1)

    def _check(self, state: StateDict) -> None:
        for name, value in self.origin.items():
            found = tuple(state[name].shape) if name in state else "no such tensor"
            if found != tuple(value.shape):
                raise LayoutMismatchError(
                    "tensors do not fit the subspace",
                    where=f"tensor {name!r}",
                    found=found,
                    expected=tuple(value.shape),
                    todo="Pass the parameters that the subspace was built from.",
                )

    def __repr__(self) -> str:
        total = sum(value.numel() for value in self.origin.values())
        return f"Subspace(dim {self.dim} of {total}, {len(self.origin)} tensors)"
