"""Maps of a position that may leave a density unchanged, and what they are called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.distributions.transforms import StickBreakingTransform

from pyro_geo.density import Layout, Site

__all__ = ["Axis", "Move", "axes_of", "between", "flips", "in_words", "swaps"]

Kind = Literal["exchange", "sign", "mirror", "shift"]

_LONGEST = 64  # entries of an axis that are looked at
_ALL_PAIRS = 6  # entries up to which each pair is swapped, not neighbours alone
_TOGETHER = 4  # axes that are changed together at most, among many
_FEW = 7  # axes of which all subsets are tried


@dataclass(frozen=True)
class Move:
    """A map of unconstrained positions: `sign * q[permutation] + shift`.

    Attributes:
        kind: `"exchange"`, `"sign"`, `"mirror"` or `"shift"`.
        names: sites, or rows or columns of them, that it changes.
        entries: that it exchanges, or whose sign it changes; none for whole sites.
        permutation: of the coordinates, `(dim,)`.
        sign: of each, `(dim,)`.
        shift: of each, `(dim,)`; None for none.
        simplices: sites whose constrained entries `i` and `j` are swapped.
        coordinates: that it changes.
    """

    kind: Kind
    names: str
    entries: tuple[int, ...]
    permutation: Tensor
    sign: Tensor
    shift: Tensor | None = None
    simplices: tuple[tuple[Site, int, int], ...] = ()
    coordinates: frozenset[object] = field(default_factory=frozenset)

    def __call__(self, q: Tensor) -> Tensor:
        """Map positions, `(n, dim)`."""
        moved = self.sign.to(q) * q[:, self.permutation]
        if self.shift is not None:
            moved = moved + self.shift.to(q)
        for site, i, j in self.simplices:
            own = q[:, site.slice].reshape(len(q), *site.shape)
            value = site.transform(own)
            assert isinstance(value, Tensor)
            order = list(range(value.shape[-1]))
            order[i], order[j] = j, i
            back = site.transform.inv(value[..., order])
            assert isinstance(back, Tensor)
            moved[:, site.slice] = back.reshape(len(q), -1).to(q)
        return moved


@dataclass(frozen=True)
class Axis:
    """Entries that may be exchanged: of a vector, rows of a matrix, sites of a family.

    Attributes:
        words: what the entries are of.
        index: flat coordinates of each entry, `(entries, numbers)`; None where the
            entries are those of a simplex.
        simplex: the site, where they are.
        entries: how many.
    """

    words: str
    entries: int
    index: Tensor | None = None
    simplex: Site | None = None

    def touched(self, *entries: int) -> frozenset[object]:
        """Coordinates of some entries."""
        if self.index is None:
            assert self.simplex is not None
            return frozenset((self.simplex.name, i) for i in entries)
        return frozenset(self.index[list(entries)].flatten().tolist())


def axes_of(layout: Layout) -> list[Axis]:
    """List the axes of all sites, and families of sites of one shape."""
    axes: list[Axis] = []
    for site in layout.sites.values():
        flat = torch.arange(site.start, site.stop).reshape(site.shape)
        own = len(site.shape)
        for axis in range(own):
            if axis >= len(site.constrained_shape):
                break
            n = site.shape[axis]
            if site.constrained_shape[axis] != n or not 2 <= n <= _LONGEST:
                continue
            index = flat.movedim(axis, 0).reshape(n, -1)
            axes.append(Axis(_axis_words(site.name, axis, own), n, index))
        if isinstance(site.transform, StickBreakingTransform):
            n = site.constrained_shape[-1]
            if 2 <= n <= _LONGEST:
                axes.append(Axis(f"{site.name!r}", n, simplex=site))
    return axes + list(_families(layout))


def _axis_words(name: str, axis: int, rank: int) -> str:
    if rank == 1:
        return repr(name)
    if rank == 2:
        return f"{('rows', 'columns')[axis]} of {name!r}"
    return f"axis {axis} of {name!r}"


def _families(layout: Layout) -> Iterator[Axis]:
    """Sites that could be entries of one: numbered names, and pairs of one shape."""
    families: dict[tuple[str, torch.Size], list[Site]] = {}
    for site in layout.sites.values():
        stem = re.sub(r"\d+(?=\D*$)", "#", site.name)
        if stem != site.name:
            families.setdefault((stem, site.shape), []).append(site)
    grouped: set[str] = set()
    for group in families.values():
        if 2 <= len(group) <= _LONGEST:
            yield _family(group)
            grouped.update(site.name for site in group)
    # a pair that a family has already is not listed twice
    rest = [site for site in layout.sites.values() if site.name not in grouped]
    for pair in itertools.combinations(rest, 2):
        same = pair[0].shape == pair[1].shape
        if same and pair[0].constrained_shape == pair[1].constrained_shape:
            yield _family(pair)


def _family(sites: Sequence[Site]) -> Axis:
    index = torch.stack([torch.arange(site.start, site.stop) for site in sites])
    return Axis(", ".join(repr(site.name) for site in sites), len(sites), index)


def _subsets(axes: Sequence[Axis]) -> Iterator[tuple[Axis, ...]]:
    """Subsets of axes, small ones first; of many axes the small ones and all."""
    most = len(axes) if len(axes) <= _FEW else _TOGETHER
    for size in range(1, most + 1):
        yield from itertools.combinations(axes, size)
    if most < len(axes):
        yield tuple(axes)


def swaps(layout: Layout, axes: Sequence[Axis]) -> Iterator[list[Move]]:
    """Exchange two entries, along one axis or several together.

    Yields:
        Lists of moves; within one list, one that contains another is of no use.
    """
    dim = layout.dim
    by_size: dict[int, list[Axis]] = {}
    for axis in axes:
        by_size.setdefault(axis.entries, []).append(axis)
    for n, group in by_size.items():
        pairs = [*itertools.combinations(range(n), 2)]
        if n > _ALL_PAIRS:
            pairs = [(i, i + 1) for i in range(n - 1)]
        for i, j in pairs:
            moves = []
            for subset in _subsets(group):
                touched = [axis.touched(i, j) for axis in subset]
                union = frozenset[object]().union(*touched)
                if len(union) < sum(map(len, touched)):
                    continue  # two axes of one site, say
                moves.append(_swap(dim, subset, i, j, union))
            yield moves


def _swap(
    dim: int,
    axes: Sequence[Axis],
    i: int,
    j: int,
    coordinates: frozenset[object],
) -> Move:
    permutation = torch.arange(dim)
    simplices = []
    for axis in axes:
        if axis.index is None:
            assert axis.simplex is not None
            simplices.append((axis.simplex, i, j))
        else:
            permutation[axis.index[i]] = axis.index[j]
            permutation[axis.index[j]] = axis.index[i]
    names = ", ".join(axis.words for axis in axes)
    return Move(
        "exchange",
        names,
        (i, j),
        permutation,
        torch.ones(dim),
        simplices=tuple(simplices),
        coordinates=coordinates,
    )


def flips(layout: Layout, axes: Sequence[Axis]) -> Iterator[list[Move]]:
    """Change signs in unconstrained space: of sites, of entries, of several together.

    Yields:
        Lists of moves, as :func:`swaps`.
    """
    dim = layout.dim
    whole = [
        Axis(repr(site.name), 1, torch.arange(site.start, site.stop)[None])
        for site in layout.sites.values()
    ]
    groups: dict[int, list[Axis]] = {1: whole}
    for axis in axes:
        if axis.index is not None:
            groups.setdefault(axis.entries, []).append(axis)
    for n, group in groups.items():
        for i in range(n):
            moves = []
            for subset in _subsets(group):
                touched = [axis.touched(i) for axis in subset]
                union = frozenset[object]().union(*touched)
                if len(union) < sum(map(len, touched)):
                    continue
                sign = torch.ones(dim)
                sign[[int(str(c)) for c in union]] = -1.0
                names = ", ".join(axis.words for axis in subset)
                at = () if n == 1 else (i,)
                order = torch.arange(dim)
                moves.append(Move("sign", names, at, order, sign, coordinates=union))
            yield moves


def between(layout: Layout, first: Tensor, second: Tensor, tol: float) -> list[Move]:
    """Maps of one mode to another that leave the other coordinates alone.

    Args:
        layout: of the positions.
        first: a mode, `(dim,)`.
        second: another one.
        tol: difference up to which a coordinate is the same.

    Returns:
        A reflection at the point half way, and a translation.
    """
    changed = (first - second).abs() > tol * (1.0 + first.abs())
    dim = layout.dim
    order = torch.arange(dim)
    sites = [s for s in layout.sites.values() if bool(changed[s.slice].any())]
    names = ", ".join(repr(site.name) for site in sites)
    union = frozenset[object](changed.nonzero().flatten().tolist())
    mirror = torch.where(changed, first + second, 0.0)
    away = torch.where(changed, second - first, 0.0)
    turned = torch.where(changed, -1.0, 1.0).cpu()
    return [
        Move("mirror", names, (), order, turned, mirror, coordinates=union),
        Move("shift", names, (), order, torch.ones(dim), away, coordinates=union),
    ]


def in_words(moves: Sequence[Move]) -> list[str]:
    """Say what moves do, those of several entries in one sentence."""
    words = []
    groups: dict[tuple[Kind, str], list[Move]] = {}
    for move in moves:
        groups.setdefault((move.kind, move.names), []).append(move)
    for (kind, names), group in groups.items():
        entries = sorted({i for move in group for i in move.entries})
        listed = ", ".join(map(str, entries))
        if kind == "exchange":
            words.append(f"entries {listed} of {names} exchanged")
        elif kind == "sign" and entries:
            each = "each of entries" if len(entries) > 1 else "entry"
            words.append(f"sign of {each} {listed} of {names} changed")
        elif kind == "sign":
            words.append(f"sign of {names} changed")
        else:
            words += [f"{names} {_by(move)}" for move in group]
    return words


def _by(move: Move) -> str:
    """Say about which point a move reflects, or how far it goes."""
    assert move.shift is not None
    rows = move.shift != 0
    if move.kind == "mirror":
        at = (0.5 * move.shift[move.sign < 0]).tolist()
        return f"reflected at {_shown(at)} in unconstrained space"
    return f"moved by {_shown(move.shift[rows].tolist())} in unconstrained space"


def _shown(numbers: Sequence[float]) -> str:
    text = ", ".join(f"{x:.4g}" for x in numbers[:4])
    return text if len(numbers) == 1 else f"({text}{', ...' * (len(numbers) > 4)})"
