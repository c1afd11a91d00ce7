"""Rows of transitions, and the different nodes in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_shape

__all__ = ["Nodes", "Parts", "differences", "nodes_of", "split"]


class Nodes(NamedTuple):
    """The different nodes of some rows, and where each row finds its own.

    Attributes:
        x: nodes, `(*batch, N, D)`; the first are those that the rows start from.
        place: number of each row's successors among them, `(n, J)`.
        coefficient: discounted weights of the successors, `(*batch, n, J)`.
    """

    x: Tensor
    place: Tensor
    coefficient: Tensor


class Parts(NamedTuple):
    """Columns of rows: nodes `(*batch, n, D)`, successors and their coefficients."""

    x: Tensor
    x_next: Tensor  # (*batch, n, J, D)
    coefficient: Tensor  # (*batch, n, J)


def split(rows: Tensor, dim: int, successors: int) -> Parts:
    """Take rows apart."""
    width = dim + successors * (dim + 1)
    words = f"(*batch, n, {width}) for dim={dim} and successors={successors}"
    check_shape("z", rows.shape, words, rows.dim() > 1 and rows.shape[-1] == width)
    x, x_next, coefficient = rows.split([dim, successors * dim, successors], -1)
    return Parts(x, x_next.unflatten(-1, (successors, dim)), coefficient)


def nodes_of(rows: Tensor, dim: int, successors: int) -> Nodes:
    """Find the different nodes of rows, without looking for every coincidence.

    A successor is looked for in the next row, as on a path, and among the successors of
    the row before, as where all rows lead to the end of an episode.

    Args:
        rows: as `Transitions.pack` makes them.
        dim: number of columns of a node.
        successors: of each transition.

    Returns:
        The nodes.
    """
    x, x_next, coefficient = split(rows, dim, successors)
    n = x.shape[-2]
    used = _anywhere(coefficient != 0)  # (n, J)
    following = torch.roll(x, -1, -2).unsqueeze(-2)
    differs = _anywhere((x_next != following).any(-1))
    differs[-1] = True
    moved = _anywhere((x_next != torch.roll(x_next, 1, -3)).any(-1))
    if rows.requires_grad:  # each column has a derivative of its own
        differs, moved = torch.ones_like(differs), torch.ones_like(moved)
    own = used & differs
    moved |= ~torch.roll(own, 1, 0)
    moved[0] = True
    new = own & moved
    place = (torch.arange(n, device=x.device) + 1).unsqueeze(-1).expand(n, successors)
    # numbers of new nodes: down the rows of one successor, then the next successor
    number = (new.mT.flatten().cumsum(0) - 1).unflatten(0, (successors, n)).mT
    place = torch.where(own, n + number, place)
    place = torch.where(used, place, 0)
    extra = x_next.movedim(-2, -3).flatten(-3, -2)[..., new.mT.flatten(), :]
    return Nodes(torch.cat([x, extra], -2), place, coefficient)


def _anywhere(flags: Tensor) -> Tensor:
    """Whether a flag is set in any member of a batch, `(n, J)`."""
    return flags.reshape(-1, *flags.shape[-2:]).any(0)


def differences(values: Tensor, nodes: Nodes, axis: int) -> Tensor:
    """Replace an axis of nodes by one of rows: node less discounted successors.

    Args:
        values: something of each node, along an axis.
        nodes: which of them a row has, and with which coefficients.
        axis: -1, or -2.

    Returns:
        The same of each row.
    """
    n, count = nodes.place.shape
    rows = values.narrow(axis, 0, n)
    for j in range(count):
        coefficient, place = nodes.coefficient[..., j], nodes.place[:, j]
        if not bool((coefficient != 0).any()):
            continue
        start = int(place[0])
        if bool((place == start + torch.arange(n, device=place.device)).all()):
            following = values.narrow(axis, start, n)  # a path: no copy is needed
        else:
            following = values.index_select(axis, place)
        if axis == -2:
            coefficient = coefficient.unsqueeze(-1)
        elif values.dim() > 1 and coefficient.dim() < values.dim():
            coefficient = coefficient.unsqueeze(-2)
        rows = torch.addcmul(rows, coefficient, following, value=-1)
    return rows
