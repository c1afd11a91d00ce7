"""Means and covariances of many lanes: how they move, and how they are merged.

A state is `orders` vectors (position, velocity, ...) of `axes` numbers. Its mean is a
tuple of them, each `(axes, *lanes)`, and its covariance a tuple of the blocks `(a, b)`
with `a <= b`, each `(axes, axes, *lanes)`. The lanes come last, so that each operation
is a loop over neighbouring numbers, with no small matrix product in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.dynamics import Table

__all__ = ["Bias", "Blocks", "block", "matched", "matched_bias", "moved", "pairs"]

Blocks: TypeAlias = tuple[Tensor, ...]


class Bias(NamedTuple):
    """The bias of a report, in the lanes where it has one.

    Attributes:
        mean: `(m, *lanes)`.
        cov: `(m, m, *lanes)`.
        cross: covariance of each order of the state with it, `(axes, m, *lanes)`.
    """

    mean: Tensor
    cov: Tensor
    cross: Blocks


def pairs(orders: int) -> list[tuple[int, int]]:
    """List the blocks of a covariance that are kept.

    Args:
        orders: vectors in the state.

    Returns:
        Row and column of each, row not above column.

    Example:
        >>> pairs(2)
        [(0, 0), (0, 1), (1, 1)]
    """
    return [(a, b) for a in range(orders) for b in range(a, orders)]


def block(cov: Sequence[Tensor], orders: int, a: int, b: int) -> Tensor:
    """Give one block of a covariance, also where its transpose is kept.

    Args:
        cov: the blocks that are kept.
        orders: vectors in the state.
        a: row.
        b: column.

    Returns:
        The block, `(axes, axes, *lanes)`.
    """
    kept = cov[pairs(orders).index((min(a, b), max(a, b)))]
    return kept if a <= b else kept.transpose(0, 1)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(1) * right.unsqueeze(0)


def matched(
    mean: Blocks, cov: Blocks, share: Tensor, dim: tuple[int, ...]
) -> tuple[Blocks, Blocks, Blocks]:
    r"""Merge Gaussians into one with the same mean and covariance.

    .. math:: m = \sum_i w_i m_i, \qquad
        C = \sum_i w_i \left(C_i + (m_i - m)(m_i - m)^T\right)

    The differences are taken before they are squared: the moments about zero would
    cancel.

    Args:
        mean: of each Gaussian.
        cov: of each.
        share: weights, `(*lanes)`, that add up to one over `dim`.
        dim: axes to merge, counted from the end.

    Returns:
        Mean and covariance, without those axes, and what each mean differs by.
    """
    centre = tuple((share * x).sum(dim, keepdim=True) for x in mean)
    gap = tuple(x - c for x, c in zip(mean, centre, strict=True))
    spread = tuple(
        (share * (p + _outer(gap[a], gap[b]))).sum(dim)
        for p, (a, b) in zip(cov, pairs(len(mean)), strict=True)
    )
    return tuple(c.squeeze(dim) for c in centre), spread, gap


def matched_bias(bias: Bias, gap: Blocks, share: Tensor, dim: tuple[int, ...]) -> Bias:
    """Merge the biases of Gaussians whose states were merged by :func:`matched`.

    Args:
        bias: of each Gaussian.
        gap: what each mean of the state differs by from the merged one.
        share: weights, `(*lanes)`.
        dim: axes to merge.

    Returns:
        The bias of the merged Gaussian.
    """
    centre = (share * bias.mean).sum(dim, keepdim=True)
    own = bias.mean - centre
    return Bias(
        centre.squeeze(dim),
        (share * (bias.cov + _outer(own, own))).sum(dim),
        tuple(
            (share * (c + _outer(g, own))).sum(dim)
            for c, g in zip(bias.cross, gap, strict=True)
        ),
    )


def moved(rows: Table, mean: Sequence[Tensor]) -> Blocks:
    """Multiply the orders of a state by a small matrix.

    Args:
        rows: the matrix; entries broadcast against the lanes.
        mean: the orders.

    Returns:
        The new orders.
    """
    return tuple(
        _total([_times(f, x) for f, x in zip(row, mean, strict=True) if not _zero(f)])
        for row in rows
    )


def moved_cov(rows: Table, noise: Table, cov: Blocks) -> Blocks:
    r"""Move a covariance, :math:`(F \otimes I) C (F \otimes I)^T + Q \otimes I`.

    Args:
        rows: :math:`F`.
        noise: :math:`Q`; only its upper half is read.
        cov: the blocks that are kept.

    Returns:
        The new blocks.
    """
    orders = len(rows)
    axes = cov[0].shape[0]
    eye = torch.eye(axes, dtype=cov[0].dtype, device=cov[0].device)
    eye = eye.reshape(axes, axes, *[1] * (cov[0].ndim - 2))
    out = []
    for a, b in pairs(orders):
        terms = []
        for old, (c, d) in zip(cov, pairs(orders), strict=True):
            straight = _product(rows[a][c], rows[b][d])
            if c == d:
                terms.append((straight, old))
            elif a == b:  # in one product, so that it stays symmetric to the last bit
                terms.append((straight, old + old.transpose(0, 1)))
            else:
                terms.append((straight, old))
                terms.append((_product(rows[a][d], rows[b][c]), old.transpose(0, 1)))
        parts = [_times(f, block) for f, block in terms if not _zero(f)]
        if not _zero(noise[a][b]):
            parts.append(noise[a][b] * eye)
        out.append(_total(parts))
    return tuple(out)


def _zero(entry: Tensor | float) -> bool:
    return not isinstance(entry, Tensor) and entry == 0.0


def _product(left: Tensor | float, right: Tensor | float) -> Tensor | float:
    if _zero(left) or _zero(right):
        return 0.0
    return left * right


def _times(factor: Tensor | float, x: Tensor) -> Tensor:
    return x if not isinstance(factor, Tensor) and factor == 1.0 else factor * x


def _total(parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result
