"""Kinds of metric: which positive-definite matrix is the covariance of velocities."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.density import Layout
from pyro_geo.geometry.block_matrices import BlockLowRank
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank

__all__ = ["Metric", "MetricKind", "diagonal_as", "kind_of", "plate_blocks"]

MetricKind = Literal["diagonal", "dense", "low_rank", "blocks"]
Metric = Diagonal | LowRank | Dense | BlockLowRank

_WIDEST_BLOCK = 8  # coordinates; a metric of wider ones needs many draws


def kind_of(metric: Metric) -> MetricKind:
    """Name the kind of a metric."""
    if isinstance(metric, Diagonal):
        return "diagonal"
    if isinstance(metric, BlockLowRank):
        return "blocks"
    return "dense" if isinstance(metric, Dense) else "low_rank"


def plate_blocks(layout: Layout) -> Tensor:
    """Find the coordinates that belong to the same element of a plate.

    Given what is outside of the plate, those of different elements are independent.
    The coordinates outside of all plates are one more block.

    Args:
        layout: of the position.

    Returns:
        Coordinates of each block, filled up with -1, `(blocks, width)`. Where there
        are more than eight, each is a block by itself.
    """
    blocks: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for site in layout.sites.values():
        shape = site.constrained_shape[: len(site.dims)]
        plated = len(shape) == len(site.dims) and site.shape[: len(shape)] == shape
        names, sizes = (site.dims, tuple(shape)) if plated else ((), ())
        numbers = torch.arange(site.start, site.stop).reshape(*sizes, -1)
        for index in product(*map(range, sizes)):
            key = tuple(zip(names, index, strict=True))
            blocks.setdefault(key, []).extend(numbers[index].tolist())
    parts: list[list[int]] = []
    for block in blocks.values():
        parts += [block] if len(block) <= _WIDEST_BLOCK else [[i] for i in block]
    width = max(map(len, parts))
    return torch.tensor([part + [-1] * (width - len(part)) for part in parts])


def diagonal_as(
    kind: MetricKind, scale: Tensor, rank: int, members: Tensor | None = None
) -> Metric:
    """Write a diagonal covariance as a metric of some kind.

    Args:
        kind: the kind.
        scale: standard deviations, `(dim,)`.
        rank: of a low-rank metric.
        members: coordinates of each block, for a metric of blocks.

    Returns:
        The metric.
    """
    if kind == "diagonal":
        return Diagonal(scale)
    if kind == "dense":
        return Dense(scale.square().diag(), scale.diag(), scale.reciprocal().diag())
    # any orthonormal columns do, as all eigenvalues are one
    vectors = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)[:, :rank]
    vectors, values = vectors.contiguous(), torch.ones_like(scale[:rank])
    if kind == "low_rank":
        return LowRank(scale, vectors, values)
    assert members is not None
    there = members >= 0
    diagonal = torch.where(there, scale[members], 1.0)
    return BlockLowRank.from_blocks(members, diagonal.diag_embed(), vectors, values)
