r"""Positive-definite matrices of small dense blocks around a low-rank change.

Blocks are sets of coordinates that hang together more closely than with the rest, such
as the parameters of one subject among a thousand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry._directions import stretched

__all__ = ["BlockLowRank", "block_partners", "spread_blocks"]


class BlockLowRank(NamedTuple):
    r"""Blocks and a few directions: :math:`B (I + U (D - I) U^\top) B`.

    `B` is symmetric and, in some order of the coordinates, block diagonal; `D` is
    `diag(values)`. In units of `B` the matrix is 1 everywhere but along the columns of
    `U`. With blocks of one coordinate each it is a
    :class:`~pyro_geo.geometry.matrices.LowRank`.

    Attributes:
        partners: for each coordinate those in its block, `(dim, width)`, see
            :func:`block_partners`.
        root: row of `B` for each coordinate, at its partners, `(dim, width)`.
        inverse_root: the same of the inverse of `B`, `(dim, width)`.
        log_volume: logarithm of the determinant of `B`, `()`.
        vectors: orthonormal columns `U`, `(dim, rank)`.
        values: positive eigenvalues along them, `(rank,)`.

    Example:
        >>> members = torch.tensor([[0, 2], [1, -1]])
        >>> blocks = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])
        >>> directions = torch.zeros(3, 1), torch.ones(1)
        >>> matrix = BlockLowRank.from_blocks(members, blocks, *directions)
        >>> matrix.sample(torch.ones(3)).tolist()
        [3.0, 3.0, 3.0]
    """

    partners: Tensor
    root: Tensor
    inverse_root: Tensor
    log_volume: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def from_blocks(
        cls, members: Tensor, blocks: Tensor, vectors: Tensor, values: Tensor
    ) -> BlockLowRank:
        """Put the matrix together.

        Args:
            members: coordinates of each block, filled up with -1, `(blocks, width)`.
            blocks: of `B`, symmetric and positive definite, with the identity where
                there is no member, `(blocks, width, width)`.
            vectors: orthonormal columns, `(dim, rank)`.
            values: positive, `(rank,)`.

        Returns:
            The matrix.
        """
        factor = torch.linalg.cholesky(blocks)
        inverse = torch.cholesky_inverse(factor)
        log_volume = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum()
        dim = len(vectors)
        return cls(
            block_partners(members, dim),
            spread_blocks(members, blocks, dim),
            spread_blocks(members, 0.5 * (inverse + inverse.mT), dim),
            log_volume,
            vectors,
            values,
        )

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.root.shape[0]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self._blocks(stretched(self._blocks(x), self.vectors, self.values))

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return self._unblock(stretched(self._unblock(x), self.vectors, 1 / self.values))

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        return 2 * self.log_volume + self.values.log().sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return self._blocks(stretched(noise, self.vectors, self.values.sqrt()))

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return self._unblock(stretched(noise, self.vectors, self.values.rsqrt()))

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return stretched(self._unblock(x), self.vectors, self.values.rsqrt())

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return stretched(self._blocks(x), self.vectors, self.values.sqrt()).norm(dim=-1)

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return self.matvec(torch.eye(self.dim).to(self.root))

    def _blocks(self, x: Tensor) -> Tensor:
        return (x[..., self.partners] * self.root).sum(-1)

    def _unblock(self, x: Tensor) -> Tensor:
        return (x[..., self.partners] * self.inverse_root).sum(-1)


def block_partners(members: Tensor, dim: int) -> Tensor:
    """Write down for each coordinate which others are in its block.

    Args:
        members: coordinates of each block, filled up with -1, `(blocks, width)`; each
            coordinate is in one block.
        dim: number of coordinates.

    Returns:
        Indices, in the order of the block; a place without a member holds the
        coordinate itself, `(dim, width)`.

    Example:
        >>> block_partners(torch.tensor([[0, 2], [1, -1]]), 3).tolist()
        [[0, 2], [1, 1], [0, 2]]
    """
    there = members >= 0
    block, _ = there.nonzero(as_tuple=True)
    own = members[there]
    rows = members[block]
    partners = torch.where(rows >= 0, rows, own[:, None])
    return (
        torch.empty(dim, members.shape[1], dtype=torch.long)
        .index_copy(0, own.cpu(), partners.cpu())
        .to(members.device)
    )


def spread_blocks(members: Tensor, blocks: Tensor, dim: int) -> Tensor:
    """Write down for each coordinate its row of a block-diagonal matrix.

    Args:
        members: coordinates of each block, filled up with -1, `(blocks, width)`.
        blocks: `(blocks, width, width)`.
        dim: number of coordinates.

    Returns:
        Entries at the partners of each coordinate, 0 where there is none,
        `(dim, width)`.
    """
    there = members >= 0
    entries = torch.where(there[:, None, :], blocks, 0.0)[there]
    return entries.new_empty(dim, members.shape[1]).index_copy(
        0, members[there], entries
    )
