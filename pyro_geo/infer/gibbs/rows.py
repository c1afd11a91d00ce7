"""The examples of a data set, row by row: told apart, replaced and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree

__all__ = [
    "Examples",
    "Kinship",
    "Rows",
    "flat_columns",
    "standard_columns",
    "table_keys",
]

Kinship = Literal["same", "pairing", "subset", "superset", "overlap", "none"]

_MOST = 1 << 22  # numbers that are hashed side by side
_EXACT = 1 << 53  # integers up to here are doubles


class Rows(NamedTuple):
    """Keys of the rows of a data set; equal rows have equal keys, wherever they lie.

    Attributes:
        inputs: keys of the arguments alone, `(n,)` complex numbers of 128 bits.
        targets: of the targets alone.
        both: of both together.
    """

    inputs: np.ndarray
    targets: np.ndarray
    both: np.ndarray

    @property
    def digest(self) -> str:
        """Hexadecimal digits that do not depend on the order of the rows."""
        return hashlib.sha256(np.sort(self.both).tobytes()).hexdigest()

    @property
    def duplicates(self) -> int:
        """Number of rows that are equal to one before them."""
        return len(self.both) - len(np.unique(self.both))

    def first_pair(self) -> tuple[int, int]:
        """Indices of two equal rows."""
        _, first, inverse = np.unique(self.both, return_index=True, return_inverse=True)
        again = first[inverse]
        second = int((again != np.arange(len(again))).argmax())
        return int(again[second]), second

    def kinship(self, other: Rows) -> Kinship:
        """Say how these rows are related to those of another data set."""
        mine, others = np.sort(self.both), np.sort(other.both)
        if np.array_equal(mine, others):
            return "same"
        for part in ("inputs", "targets"):
            pair = np.sort(getattr(self, part)), np.sort(getattr(other, part))
            if not np.array_equal(*pair):
                break
        else:
            return "pairing"
        shared = np.isin(mine, others)
        if shared.all():
            return "subset"
        if np.isin(others, mine).all():
            return "superset"
        return "overlap" if shared.any() else "none"


class Examples:
    """Arguments and targets whose tensors have one row for each example.

    Args:
        args: arguments of a model, a tuple or one tensor.
        targets: what the loss compares with, likewise.
        n: number of examples.
    """

    def __init__(self, args: Any, targets: Any, n: int) -> None:
        self.args, self.targets, self.n = args, targets, n

    @classmethod
    def of(cls, args: Any, targets: Any, n: int | None = None) -> Examples | None:
        """Take data apart.

        Args:
            args: arguments of a model.
            targets: what the loss compares with.
            n: number of examples; the length of the first target if None.

        Returns:
            The examples, None where no tensor has one row for each.
        """
        tensors = [x for x in pytree.tree_leaves((targets, args)) if _is_table(x)]
        if n is None:
            n = len(tensors[0]) if tensors else 0
        return cls(args, targets, n) if any(len(x) == n for x in tensors) else None

    def is_row_table(self, value: Any) -> bool:
        """Whether a value is a tensor with one row for each example."""
        return _is_table(value) and len(value) == self.n

    def take(self, index: Tensor | slice) -> tuple[Any, Any]:
        """Return arguments and targets of some of the rows."""
        return pytree.tree_map_only(
            Tensor,
            lambda x: x[index] if self.is_row_table(x) else x,
            (self.args, self.targets),
        )

    def others(self, seed: int, keep: int = 0) -> tuple[Any, Any]:
        """Put rows in place of the examples that were drawn from them again.

        Args:
            seed: of the draws, each table its own.
            keep: rows at the beginning that stay.

        Returns:
            Arguments and targets, in which nothing belongs together any more.
        """
        generator = torch.Generator().manual_seed(seed)

        def replaced(value: Tensor) -> Tensor:
            if not self.is_row_table(value):
                return value
            rows = torch.randint(self.n, (self.n,), generator=generator)
            rows[:keep] = torch.arange(keep)
            return value[rows.to(value.device)]

        return pytree.tree_map_only(Tensor, replaced, (self.args, self.targets))

    def with_other_targets(self, index: Tensor) -> tuple[Any, Any]:
        """Reorder the targets alone, and the arguments that are equal to one.

        Columns of an argument count too, whatever their units.

        Args:
            index: the order.

        Returns:
            Arguments and targets.
        """
        tables = [x for x in pytree.tree_leaves(self.targets) if self.is_row_table(x)]

        def moved(value: Tensor) -> Tensor:
            if not self.is_row_table(value):
                return value
            rows = index.to(value.device)
            if any(_same(value, table) for table in tables):
                return value[rows]
            flat = value.reshape(len(value), -1)
            known = _told(flat, tables)
            if not known.any():
                return value
            mixed = torch.where(known.to(value.device), flat[rows], flat)
            return mixed.reshape(value.shape)

        return pytree.tree_map_only(Tensor, moved, (self.args, self.targets))

    def rows(self) -> Rows:
        """Compute the keys of the rows.

        They do not depend on the floating type where it holds the numbers, nor on
        whether the targets are among the arguments as well.

        Returns:
            The keys.
        """
        targets = self._keys(self.targets, [])
        inputs = self._keys(self.args, targets)
        x, y = _combine(inputs, self.n, 1), _combine(targets, self.n, 2)
        return Rows(_join(x), _join(y), _join(_combine([x, y], self.n, 3)))

    def _keys(self, tree: Any, known: Sequence[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for leaf in pytree.tree_leaves(tree):
            if self.is_row_table(leaf):
                key = table_keys(leaf)
                if not any(np.array_equal(key, k) for k in (*known, *found)):
                    found.append(key)
        return found


def table_keys(table: Tensor) -> np.ndarray:
    """Hash the rows of a tensor, `(n, 2)` numbers of 64 bits.

    Args:
        table: `(n, ...)`; all values that are not a number count as one, and so do
            the two zeros.

    Returns:
        The keys.
    """
    bits = _bits(table)
    keys = np.zeros((len(bits), 2), np.uint64)
    width = max(1, bits.shape[1])
    factors = np.random.Generator(np.random.Philox(key=[0, width])).integers(
        0, 1 << 63, (2, 2, width), np.uint64
    ) * np.uint64(2) + np.uint64(1)
    step = max(1, _MOST // width)
    for start in range(0, len(bits), step):
        part = bits[start : start + step]
        for lane in range(2):
            mixed = part * factors[lane, 0]
            mixed ^= mixed >> np.uint64(32)
            mixed *= factors[lane, 1]
            mixed ^= mixed >> np.uint64(29)
            keys[start : start + step, lane] = mixed.sum(1, dtype=np.uint64)
    return keys


def flat_columns(table: Tensor) -> Tensor:
    """Lay a tensor out as columns of double precision, `(n, columns)`."""
    values = torch.view_as_real(table) if table.is_complex() else table
    return values.detach().cpu().double().reshape(len(table), -1)


def standard_columns(table: Tensor) -> Tensor:
    """Bring columns to mean 0 and length 1, to compare them in any units.

    Args:
        table: `(n, ...)`.

    Returns:
        Columns, `(n, columns)`; constant ones are zero.
    """
    values = flat_columns(table)
    values = (values - values.mean(0)).nan_to_num(0.0, 0.0, 0.0)
    norm = values.square().sum(0).sqrt()
    good = (norm > 1e-12 * len(values)) & norm.isfinite()
    return torch.where(good, values / norm.where(good, torch.ones_like(norm)), 0.0)


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _told(flat: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Which columns are a column of the tables but for their units."""
    known = torch.zeros(flat.shape[1], dtype=torch.bool)
    if flat.is_complex() or len(flat) < 8:
        return known
    x = standard_columns(flat)
    for table in tables:
        if not table.is_complex():
            y = standard_columns(table)
            known |= ((x.mT @ y).abs() > 1 - 1e-12).any(1)
    return known


def _same(first: Tensor, second: Tensor) -> bool:
    if first is second:
        return True
    if first.shape != second.shape or first.is_complex() != second.is_complex():
        return False
    return bool((first.double() == second.double()).all())


def _bits(table: Tensor) -> np.ndarray:
    values = table.detach().cpu()
    if values.is_complex():
        values = torch.view_as_real(values)
    values = values.reshape(len(values), -1)
    if not values.is_floating_point() and values.dtype == torch.int64:
        large = values.numel() and int(values.abs().max()) >= _EXACT
        if large:
            return values.numpy().view(np.uint64)
    # adding zero turns minus zero into zero
    doubles = values.double().numpy() + 0.0
    doubles[np.isnan(doubles)] = np.nan
    return np.ascontiguousarray(doubles).view(np.uint64)


def _combine(keys: Sequence[np.ndarray], n: int, salt: int) -> np.ndarray:
    total = np.zeros((n, 2), np.uint64)
    for index, key in enumerate(keys):
        factor = np.uint64(2 * (7919 * salt + index) + 1)
        mixed = (key + np.uint64(index + salt)) * factor
        mixed ^= mixed >> np.uint64(31)
        total += mixed * np.uint64(0x9E3779B97F4A7C15)
    return total


def _join(keys: np.ndarray) -> np.ndarray:
    """Pack pairs into one column that numpy can sort."""
    packed = np.ascontiguousarray(keys)
    return packed.view([("a", np.uint64), ("b", np.uint64)])[:, 0]
