"""Which data to forget: rows of a plate, or data of observed sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density import Target
from pyro_geo.errors import ForgetSetError, UnsupportedError

__all__ = ["ForgetSet", "Rows", "read_forget", "read_rows"]

Rows = Sequence[int] | np.ndarray | Tensor
"""Indices of rows, or a mask with an entry for each row."""


@dataclass(frozen=True)
class ForgetSet:
    """Data to forget, read against a model.

    Attributes:
        masks: observed site to a mask of the data that go, shaped like their
            log-likelihood.
        plate: name of the plate whose rows go; None where data were named by site.
        indices: its rows that go, sorted, `(rows,)`; empty without a plate.
        size: number of its rows; 0 without a plate.
    """

    masks: Mapping[str, Tensor]
    plate: str | None
    indices: Tensor
    size: int

    @property
    def retained(self) -> Tensor:
        """Rows of the plate that stay, sorted, `(size - rows,)`."""
        keep = torch.ones(self.size, dtype=torch.bool, device=self.indices.device)
        keep[self.indices] = False
        return keep.nonzero().flatten()

    @property
    def num_data(self) -> int:
        """Number of data that go, over all observed sites."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    def forgotten(self, pointwise: Mapping[str, Tensor]) -> Tensor:
        """Sum the log-likelihood of what goes.

        Args:
            pointwise: observed site to `(chains, *shape)`.

        Returns:
            One number for each chain, `(chains,)`.
        """
        return self._total(pointwise, self.masks)

    def kept(self, pointwise: Mapping[str, Tensor]) -> Tensor:
        """Sum the log-likelihood of what stays.

        Args:
            pointwise: observed site to `(chains, *shape)`.

        Returns:
            One number for each chain, `(chains,)`.
        """
        return self._total(pointwise, {name: ~m for name, m in self.masks.items()})

    def split(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Arguments, Arguments]:
        """Split the arguments of a model into those of what stays and of what goes.

        Tensors and arrays are split along their first axis of the plate's size.
        Everything else is handed on.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.

        Returns:
            Arguments of the data that stay, and of those that go, each a tuple of
            positional and a dictionary of keyword ones.

        Raises:
            ForgetSetError: no argument has rows of the plate.

        Example:
            >>> forget = read_rows([1], 3)
            >>> x = torch.tensor([[1.0], [2.0], [3.0]])
            >>> (stays, _), (goes, _) = forget.split((x,))
            >>> stays[0].flatten().tolist(), goes[0].flatten().tolist()
            ([1.0, 3.0], [2.0])
        """
        whole = (tuple(args), dict(kwargs or {}))
        found = [x for x in pytree.tree_flatten(whole)[0] if self._has_rows(x)]
        if not found:
            raise ForgetSetError(
                "no argument of the model has rows of the plate",
                where=f"plate {self.plate!r}",
                found="no tensor with such an axis",
                expected=f"an axis of {self.size} rows",
                todo="Pass the data as arguments of the model.",
            )
        return self._taken(whole, self.retained), self._taken(whole, self.indices)

    def _has_rows(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor | np.ndarray) and self.size in leaf.shape

    def _taken(self, whole: Arguments, rows: Tensor) -> Arguments:
        def take(leaf: Any) -> Any:
            if not self._has_rows(leaf):
                return leaf
            axis = tuple(leaf.shape).index(self.size)
            if isinstance(leaf, Tensor):
                return leaf.index_select(axis, rows.to(leaf.device))
            return np.take(leaf, rows.cpu().numpy(), axis)

        return pytree.tree_map(take, whole)

    def _total(
        self, pointwise: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Tensor:
        parts = []
        for name, values in pointwise.items():
            mask = masks[name].to(values.device)
            # selected and not multiplied: minus infinity times zero is no number
            parts.append(values[:, mask].sum(1) if mask.dim() else values * mask)
        return torch.stack(parts).sum(0)


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def read_rows(forget: Rows | ForgetSet, size: int, name: str = "rows") -> ForgetSet:
    """Read which rows of a table go.

    Args:
        forget: indices, or a mask with an entry for each row.
        size: number of rows.
        name: what the rows are called.

    Returns:
        The forget set, under `name` as plate. What is empty, twice, out of range or
        everything raises :class:`~pyro_geo.errors.ForgetSetError`.

    Example:
        >>> read_rows([3, 1], 5).indices.tolist()
        [1, 3]
        >>> read_rows(torch.tensor([True, False, True, False]), 4).retained.tolist()
        [1, 3]
    """
    if isinstance(forget, ForgetSet):
        if forget.size != size:
            _refuse(f"rows of a plate of {forget.size}", f"a plate of {size}", name)
        return forget
    rows = _indices(forget, size, name)
    if len(rows) == size:
        _refuse("all rows", f"fewer than {size} of them", name)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[rows] = True
    return ForgetSet({name: mask}, name, rows, size)


def read_forget(forget: Any, target: Target) -> ForgetSet:
    """Read which data of a model go.

    Args:
        forget: indices or a mask of the rows of the only plate of the data; or a
            dictionary from a plate, or an observed site, to indices, a mask of rows,
            or a mask shaped like the site's log-likelihood.
        target: density of the model at all its data.

    Returns:
        The forget set. What is empty, twice, out of range or everything raises
        :class:`~pyro_geo.errors.ForgetSetError`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.zeros(3))
        >>> forget = read_forget([2], target)
        >>> forget.plate, forget.masks["y"].tolist()
        ('data', [False, False, True])
    """
    shapes = _shapes(target)
    if isinstance(forget, ForgetSet):
        _check_made_for(forget, shapes)
        return forget
    dims = target.pointwise_dims or {
        name: tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        for name, shape in shapes.items()
    }
    if not isinstance(forget, Mapping):
        forget = {_only_plate(dims, shapes): forget}
    masks = {n: torch.zeros(s, dtype=torch.bool) for n, s in shapes.items()}
    plate, indices, size = None, torch.zeros(0, dtype=torch.long), 0
    if not forget:
        _refuse("nothing", "at least one datum", "the data")
    for name, rows in forget.items():
        if name in shapes:
            masks[name] |= _site_mask(name, rows, shapes[name])
            continue
        size, indices = _along_plate(name, rows, dims, masks)
        plate = name
    if len(forget) > 1 or plate is None:  # no rows of one plate
        plate, indices, size = None, torch.zeros(0, dtype=torch.long), 0
    if all(bool(mask.all()) for mask in masks.values()):
        _refuse("all data", "something that stays", "the data")
    return ForgetSet(masks, plate, indices, size)


def _shapes(target: Target) -> dict[str, torch.Size]:
    q = torch.full((1, target.dim), 0.1, dtype=target.dtype, device=target.device)
    with torch.no_grad():
        pointwise = target.pointwise_log_likelihood(q)
    if not pointwise:
        raise UnsupportedError(
            "there are no data to forget",
            where="the target",
            found="a density without a log-likelihood of each datum",
            expected="a model with observed sites, or a module with a loss by datum",
            todo="Use Target.from_model.",
        )
    return {name: values.shape[1:] for name, values in pointwise.items()}


def _check_made_for(forget: ForgetSet, shapes: Mapping[str, torch.Size]) -> None:
    found = {name: tuple(mask.shape) for name, mask in forget.masks.items()}
    expected = {name: tuple(shape) for name, shape in shapes.items()}
    if found != expected:
        _refuse(f"a forget set of sites {found}", f"one of sites {expected}", "sites")


def _only_plate(
    dims: Mapping[str, tuple[str, ...]], shapes: Mapping[str, torch.Size]
) -> str:
    """Name the plate that all observed sites share, or the one axis of all."""
    names = {name for own in dims.values() for name in own}
    if len(names) == 1:
        return names.pop()
    shared = [n for n in sorted(names) if all(n in own for own in dims.values())]
    if len(shared) == 1:
        return shared[0]
    expected = f"a dictionary from one of {sorted(names | set(shapes))} to rows"
    _refuse("rows of an unnamed plate", expected, "argument forget")


def _along_plate(
    name: str,
    rows: Any,
    dims: Mapping[str, tuple[str, ...]],
    masks: dict[str, Tensor],
) -> tuple[int, Tensor]:
    """Mark rows of a plate at all sites inside it; return its size and the rows."""
    inside = [site for site, own in dims.items() if name in own]
    if not inside:
        known = sorted({n for own in dims.values() for n in own} | set(masks))
        _refuse(repr(name), f"a plate or an observed site among {known}", "forget")
    axis = dims[inside[0]].index(name)
    size = masks[inside[0]].shape[axis]
    indices = _indices(rows, size, f"plate {name!r}")
    for site in inside:
        masks[site].index_fill_(dims[site].index(name), indices, True)
    return size, indices


def _site_mask(name: str, rows: Any, shape: torch.Size) -> Tensor:
    if isinstance(rows, bool | np.bool_) and not shape:
        return torch.tensor(bool(rows))
    given = _tensor(rows, f"site {name!r}")
    if given.dtype == torch.bool and given.shape == shape and given.any():
        return given.cpu()
    if not shape:
        _refuse(repr(rows), "True, as the site is one datum", f"site {name!r}")
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[_indices(rows, shape[0], f"site {name!r}")] = True
    return mask


def _tensor(rows: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(rows)
    except (RuntimeError, TypeError, ValueError):  # a text, say, or a ragged list
        _refuse(repr(rows)[:100], "a list of rows, or a mask", name)


def _indices(rows: Any, size: int, name: str) -> Tensor:
    """Read indices or a mask as sorted indices on the CPU, `(rows,)`."""
    given = _tensor(rows, name).detach().cpu()
    if given.numel() == 0:
        _refuse("nothing", "at least one row", name)
    if given.dim() != 1:
        _refuse(f"shape {tuple(given.shape)}", "a list of rows, or a mask", name)
    if given.dtype == torch.bool:
        if len(given) != size:
            _refuse(f"a mask of {len(given)} rows", f"one of {size}", name)
        if not given.any():
            _refuse("a mask without a row", "at least one row", name)
        return given.nonzero().flatten()
    if given.is_floating_point() or given.is_complex():
        _refuse(f"numbers of type {given.dtype}", "integers, or a mask", name)
    indices, counts = given.long().unique(return_counts=True)
    if bool((counts > 1).any()):
        twice = indices[counts > 1][:5].tolist()
        _refuse(f"rows more than once: {twice}", "each row once", name)
    outside = indices[(indices < 0) | (indices >= size)]
    if len(outside):
        _refuse(f"rows {outside[:5].tolist()}", f"rows from 0 to {size - 1}", name)
    return indices


def _refuse(found: str, expected: str, where: str) -> NoReturn:
    raise ForgetSetError(
        "this is no set of data to forget",
        where=where,
        found=found,
        expected=expected,
        todo="Pass the rows to delete, each once, and leave some data.",
    )
