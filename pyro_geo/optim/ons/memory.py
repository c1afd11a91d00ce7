r"""A sum of outer products, kept as a floor and a few eigenvectors.

:math:`M = \delta I + U \operatorname{diag}(s) U^\top` with orthonormal `U`. Adding and
removing `m` columns cost :math:`O(d (k + m)^2)`; nothing of size `d x d` is made.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.geometry.matrices import LowRank

__all__ = ["Lost", "Memory", "Removed", "add", "empty", "remove"]

Lost = Literal["drop", "rfd"]
"""What becomes of eigenvalues beyond the rank."""

_DEPENDENT = 1e-12  # a column that is this close to the span of the others adds none
_NOTHING = 1e-14  # eigenvalues below this share of the largest are rounding


class Memory(NamedTuple):
    """A floor and a few directions.

    Attributes:
        floor: `delta`, positive, `()`.
        vectors: orthonormal columns `U`, `(dim, k)`.
        values: non-negative eigenvalues above the floor, falling, `(k,)`.
    """

    floor: Tensor
    vectors: Tensor
    values: Tensor

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.vectors.shape[0]

    def solve(self, x: Tensor) -> Tensor:
        """Multiply rows with the inverse, `(..., dim)`."""
        share = self.values / (self.floor * (self.floor + self.values))
        return x / self.floor - ((x @ self.vectors) * share) @ self.vectors.mT

    def matrix(self) -> LowRank:
        """Give the memory the interface of a positive-definite matrix."""
        scale = self.floor.sqrt().expand(self.dim).clone()
        return LowRank(scale, self.vectors, 1 + self.values / self.floor)


class Removed(NamedTuple):
    """A memory after a removal.

    Attributes:
        memory: the rest.
        clipped: sum of the negative eigenvalues that were set to zero, positive; it is
            rounding where what was removed had been added and nothing truncated.
    """

    memory: Memory
    clipped: float


def empty(dim: int, floor: float = 1.0, device: torch.device | None = None) -> Memory:
    """Make a memory in which nothing was added.

    Args:
        dim: number of rows.
        floor: `delta`.
        device: where it is.

    Returns:
        The memory, in double precision.

    Example:
        >>> empty(3, 4.0).matrix().dense().diagonal().tolist()
        [4.0, 4.0, 4.0]
    """
    zeros = torch.zeros(dim, 0, dtype=torch.float64, device=device)
    return Memory(zeros.new_tensor(floor), zeros, zeros[0])


def add(memory: Memory, columns: Tensor, rank: int, lost: Lost = "drop") -> Memory:
    r"""Add outer products, :math:`M + G G^\top`, and keep the largest eigenvalues.

    Args:
        memory: left as it is.
        columns: `G`, `(dim, m)`.
        rank: number of eigenvectors kept.
        lost: `"drop"` forgets the rest; `"rfd"` takes the first of them off all kept
            and puts half of it on the floor, as Robust Frequent Directions does.

    Returns:
        The new memory.

    References:
        Luo et al. (2019), Robust Frequent Directions with application in online
        learning, arXiv 1705.05067.

    Example:
        >>> column = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
        >>> add(empty(2), column, 1).matrix().dense().diagonal().tolist()
        [5.0, 1.0]
    """
    basis, along = _extended(memory, columns)
    inner = along @ along.mT
    inner.diagonal()[: len(memory.values)].add_(memory.values)
    values, turn = torch.linalg.eigh(inner)
    return _cut(memory.floor, basis, values.flip(0), turn.flip(1), rank, lost)


def remove(
    memory: Memory,
    columns: Tensor,
    *,
    clip_tol: float = 1e-6,
    allow_clip: bool = False,
) -> Removed:
    r"""Take outer products out, :math:`M - G G^\top`.

    This is exact where the same columns were added and nothing was truncated since.

    Args:
        memory: left as it is.
        columns: `G`, `(dim, m)`.
        clip_tol: negative eigenvalues allowed, as a share of the trace above the floor
            and of that of the columns.
        allow_clip: whether to set larger ones to zero too.

    Returns:
        The rest, and what was clipped.

    Raises:
        NotPositiveDefiniteError: more would be removed than there is.

    Example:
        >>> column = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
        >>> remove(add(empty(2), column, 1), column).memory.values.tolist()
        []
    """
    basis, along = _extended(memory, columns)
    inner = -along @ along.mT
    inner.diagonal()[: len(memory.values)].add_(memory.values)
    values, turn = torch.linalg.eigh(inner)
    clipped = float(values.clamp(max=0).sum().abs())
    size = float(memory.values.sum() + along.square().sum())
    if clipped > clip_tol * size and not allow_clip:
        raise NotPositiveDefiniteError(
            "more is removed than a memory holds",
            found=f"negative eigenvalues of {clipped:.3g} in all",
            expected=f"at most {clip_tol * size:.3g}",
            todo="Remove columns that were added. If a truncated memory has lost some "
            "of them, pass allow_clip=True.",
        )
    rank = len(memory.values)
    rest = _cut(memory.floor, basis, values.flip(0), turn.flip(1), rank, "drop")
    return Removed(rest, clipped)


def _extended(memory: Memory, columns: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of old directions and new columns, and these in it."""
    good = columns.ndim == 2 and len(columns) == memory.dim
    check_shape("columns", columns.shape, f"({memory.dim}, m)", good=good)
    columns = columns.to(memory.vectors)
    inside = memory.vectors.mT @ columns
    rest = columns - memory.vectors @ inside
    again = memory.vectors.mT @ rest  # once is not orthogonal enough
    rest = rest - memory.vectors @ again
    q, r = torch.linalg.qr(rest)
    size = columns.norm().clamp(min=torch.finfo(columns.dtype).tiny)
    new = r.diagonal().abs() > _DEPENDENT * size
    q, r = q[:, new], r[new]
    return torch.cat([memory.vectors, q], 1), torch.cat([inside + again, r])


def _cut(
    floor: Tensor, basis: Tensor, values: Tensor, turn: Tensor, rank: int, lost: Lost
) -> Memory:
    kept = int((values > _NOTHING * values.abs().amax()).sum()) if len(values) else 0
    if lost == "rfd" and kept > rank:
        spare = values[rank]
        values, floor = values - spare, floor + 0.5 * spare
    k = min(rank, kept)
    return Memory(floor, basis @ turn[:, :k], values[:k].clamp(min=0))
