r"""The subspace in which networks are merged.

A merged network is :math:`\theta_0 + B z`. The differences
:math:`\tau_k = \theta_k - \theta_0` of the tasks choose the columns of `B`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_number
from pyro_geo.geometry.subspace import (
    Block,
    DenseBlock,
    FactoredBlock,
    IdentityBlock,
    Subspace,
)
from pyro_geo.summaries.merge._tasks import (
    Models,
    StateDict,
    Tasks,
    Weights,
    read_further,
    read_tasks,
    read_weights,
)

__all__ = ["KINDS", "build_subspace"]

KINDS = ("singular", "block", "span", "full")

_CUT = 1e-8  # relative to the largest singular value
_GRAM_CUT = 1e-8  # of eigenvalues, which are squares: those of a Gram matrix
_DENSE = 1 << 22  # numbers of a block that is stored dense
_STACKED = 1 << 25  # numbers in one batch of decompositions


class _Components(NamedTuple):
    """Leading singular vectors of one tensor's differences, all tasks together.

    Attributes:
        left: `(m, count)`.
        right: `(n, count)`.
    """

    left: Tensor
    right: Tensor


def build_subspace(
    base: StateDict,
    models: Models,
    kind: str = "singular",
    rank_fraction: float = 1.0,
    extra: Sequence[StateDict] = (),
    *,
    weights: Weights = "uniform",
    groups: Callable[[str], object] | None = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Subspace:
    r"""Choose the subspace of a merge from the differences of the tasks.

    - `"singular"`: for each matrix the top :math:`p = \lfloor f \min(m, n) / K
      \rfloor`, at least 1, singular components :math:`u_i v_i^\top` of every task;
      other tensors as in `"block"`. A convolution is the matrix of its first axis by
      the others. With `f` = 1 its rank is that of TSV-Merge.
    - `"block"`: the differences of the tasks, tensor by tensor.
    - `"span"`: the differences as they are; at most one column for each task.
    - `"full"`: every coordinate, for Gaussian posteriors and metrics in closed form.

    Columns are orthonormal. The basis of a large matrix is stored as factors; there,
    components that two tasks share up to one part in ten thousand count once.

    Args:
        base: the network that all copies started from.
        models: task name to its tensors, or a sequence of them.
        kind: one of the above.
        rank_fraction: `f`.
        extra: further parameters whose difference from the base belongs to the
            subspace, such as what a baseline has merged; added tensor by tensor,
            except to `"span"`.
        weights: of the tasks, for the mean that is the center of the subspace.
        groups: for `"block"`: what is the same for tensors that share columns, such
            as the layer of a weight and a bias; by default each has its own.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: of the columns.

    Returns:
        The subspace, with the base as its origin.

    References:
        Gargiulo et al. (2025), Task singular vectors: reducing task interference in
        model merging, arXiv 2412.00081, for the rank of `"singular"`.

    Example:
        >>> base = {"w": torch.zeros(4, 4), "b": torch.zeros(4)}
        >>> models = [{name: torch.randn_like(x) for name, x in base.items()}] * 2
        >>> build_subspace(base, models, "block").dim
        2
        >>> build_subspace(base, models, "singular", rank_fraction=0.5)
        Subspace(dim 2 of 20, 2 tensors)
    """
    check_choice("kind", kind, KINDS)
    check_number("rank_fraction", rank_fraction, strict=True)
    check(kind == "block" or groups is None, "groups", "a function", "None here")
    tasks = read_tasks(base, models, shared=shared)
    # checked like the models, under names of their own
    named = {f"extra {number}": state for number, state in enumerate(extra)}
    others = list(read_further(base, named, shared=shared).values())
    reader = _Reader(tasks, others, dtype)
    if kind == "full":
        shapes = ((name, x.shape) for name, x in tasks.base.items())
        blocks: list[Block] = [IdentityBlock(name, shape) for name, shape in shapes]
    elif kind == "span":
        blocks = _spans(reader, [list(tasks.base)])
    elif kind == "block":
        blocks = _spans(reader, _grouped(tasks.base, groups))
    else:
        blocks = list(_singular(reader, rank_fraction))
    check(bool(blocks), "models", "copies of the base alone", "a task that differs")
    subspace = Subspace(tasks.base, blocks, dtype=dtype)
    return _centred(subspace, tasks, read_weights(weights, tasks.names))


class _Reader:
    """Differences from the base, one tensor at a time."""

    def __init__(
        self, tasks: Tasks, extra: Sequence[StateDict], dtype: torch.dtype
    ) -> None:
        self.base = tasks.base
        self.models = list(tasks.models.values())
        self.extra = extra
        self.dtype = dtype

    def of_tasks(self, name: str) -> Tensor:
        """Differences of the tasks, `(tasks, *shape)`."""
        return self._read(name, self.models)

    def of_extra(self, name: str) -> Tensor:
        """Differences of further parameters, `(extra, *shape)`."""
        return self._read(name, self.extra)

    def of_all(self, name: str) -> Tensor:
        """Both, one after the other."""
        return torch.cat([self.of_tasks(name), self.of_extra(name)])

    def _read(self, name: str, states: Sequence[StateDict]) -> Tensor:
        start = self.base[name].to(self.dtype)
        rows = [state[name].to(start) - start for state in states]
        return torch.stack(rows) if rows else start.new_empty(0, *start.shape)


def _centred(subspace: Subspace, tasks: Tasks, share: Tensor) -> Subspace:
    """Put the weighted mean of the tasks in the center."""
    rows = [subspace.coords(state) for state in tasks.models.values()]
    center = share.to(subspace.center) @ torch.stack(rows)
    return Subspace(subspace.origin, subspace.blocks, center, dtype=subspace.dtype)


def _grouped(
    base: StateDict, groups: Callable[[str], object] | None
) -> list[list[str]]:
    found: dict[object, list[str]] = {}
    for name in base:
        found.setdefault(name if groups is None else groups(name), []).append(name)
    return list(found.values())


def _spans(reader: _Reader, groups: Sequence[Sequence[str]]) -> list[Block]:
    """Span of the differences, for each group of tensors."""
    blocks: list[Block] = []
    for names in groups:
        rows = torch.cat([reader.of_all(name).flatten(1) for name in names], 1)
        basis = _orthonormal_rows(rows)
        if len(basis):
            shapes = [reader.base[name].shape for name in names]
            parts = basis.split([shape.numel() for shape in shapes], 1)
            pairs = zip(names, parts, shapes, strict=True)
            block = {
                name: part.reshape(len(basis), *shape) for name, part, shape in pairs
            }
            blocks.append(DenseBlock(block))
    return blocks


def _singular(reader: _Reader, fraction: float) -> Iterator[Block]:
    matrices = [name for name, x in reader.base.items() if min(_sides(x)) > 1]
    found = _components(reader, matrices, fraction)
    for name in reader.base:
        if name in found:
            block = _matrix_block(reader, name, found[name])
            if block is not None:
                yield block
        else:
            yield from _spans(reader, [[name]])


def _sides(x: Tensor) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix; a vector has one row."""
    return (x.shape[0], x.shape[1:].numel()) if x.dim() > 1 else (1, x.numel())


def _components(
    reader: _Reader, names: Sequence[str], fraction: float
) -> dict[str, _Components]:
    """Decompose all matrices of one shape together."""
    shapes: dict[tuple[int, int], list[str]] = {}
    for name in names:
        shapes.setdefault(_sides(reader.base[name]), []).append(name)
    count = len(reader.models)
    found: dict[str, _Components] = {}
    for (m, n), alike in shapes.items():
        rank = max(1, int(fraction * min(m, n) / count))
        at_once = max(1, _STACKED // (count * m * n))
        for start in range(0, len(alike), at_once):
            batch = alike[start : start + at_once]
            rows = torch.stack([reader.of_tasks(name) for name in batch])
            leading = _leading(rows.reshape(-1, count, m, n), rank)
            found |= dict(zip(batch, leading, strict=True))
    return found


def _leading(matrices: Tensor, rank: int) -> Iterator[_Components]:
    """Top singular vectors of `(tensors, tasks, m, n)`, without those of zeros."""
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    for left, values, right in zip(u, s, v.mH, strict=True):
        top = values[:, :rank]
        good = top > _CUT * top[:, :1].clamp(min=torch.finfo(top.dtype).tiny)
        yield _Components(
            left[:, :, :rank].transpose(1, 2)[good].T,
            right[:, :, :rank].transpose(1, 2)[good].T,
        )


def _matrix_block(reader: _Reader, name: str, parts: _Components) -> Block | None:
    shape = reader.base[name].shape
    extra = reader.of_extra(name).flatten(1)
    norms = extra.norm(dim=1)
    extra = extra[norms > 0] / norms[norms > 0][:, None]
    count = parts.left.shape[1] + len(extra)
    if count == 0:
        return None
    if count * shape.numel() <= _DENSE:
        outer = torch.einsum("mc,nc->cmn", parts.left, parts.right)
        basis = _orthonormal_rows(torch.cat([outer.flatten(1), extra]))
        return DenseBlock({name: basis.reshape(-1, *shape)})
    matrices = extra.reshape(-1, len(parts.left), len(parts.right))
    mix = _orthonormal_mix(parts, matrices)
    return FactoredBlock(name, shape, parts.left, parts.right, matrices, mix)


def _orthonormal_rows(rows: Tensor) -> Tensor:
    """Orthonormal basis of the span of rows, by a decomposition that reveals rank.

    Args:
        rows: `(count, size)`.

    Returns:
        The basis, `(rank, size)`.
    """
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    if not len(values):
        return basis
    tiny = torch.finfo(values.dtype).tiny
    return basis[values > _CUT * values[0].clamp(min=tiny)]


def _orthonormal_mix(parts: _Components, extra: Tensor) -> Tensor:
    """Mixtures of outer products and matrices that are orthonormal."""
    left, right = parts
    gram = (left.T @ left) * (right.T @ right)
    across = torch.einsum("mc,emn,nc->ec", left, extra, right)
    flat = extra.flatten(1)
    whole = torch.cat(
        [torch.cat([gram, across.T], 1), torch.cat([across, flat @ flat.T], 1)]
    )
    values, vectors = torch.linalg.eigh(whole)
    good = values > _GRAM_CUT * values[-1]
    return vectors[:, good] * values[good].rsqrt()
