"""Learners whose residue is known, and treatments that leave it where it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_geo.optim import EigenONS
from pyro_geo.optim.ons import remove
from pyro_geo.unlearning.data_treatments import Downdate
from pyro_geo.unlearning.probes import Probes
from pyro_geo.unlearning.treatments import Treatment

__all__ = [
    "clusters",
    "downdate_by_clamping",
    "network_probes",
    "reset_cache_alone",
    "reset_factors_alone",
    "train",
    "trained_network",
]


def clusters(
    per_class: int, classes: int = 3, dim: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Make classes that lie apart, each along an axis of its own.

    Args:
        per_class: rows of each class.
        classes: number of classes, at most `dim`.
        dim: number of features.
        seed: of the noise.

    Returns:
        Features `(rows, dim)` and classes `(rows,)`, in random order.

    Example:
        >>> x, y = clusters(5)
        >>> x.shape, y.bincount().tolist()
        (torch.Size([15, 4]), [5, 5, 5])
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat(per_class)
    y = y[torch.randperm(len(y), generator=generator)]
    noise = torch.randn(len(y), dim, generator=generator, dtype=torch.float64)
    return 2.0 * torch.eye(dim, dtype=torch.float64)[y] + 0.5 * noise, y


def trained_network(
    make: Any, rows: Tensor, data: tuple[Tensor, Tensor], seed: int = 0
) -> tuple[torch.nn.Module, Any]:
    """Train a small network on single rows, in their order.

    Args:
        make: parameters to optimiser.
        rows: indices, in their order.
        data: features and classes.
        seed: of the start.

    Returns:
        The network and its optimiser.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(data[0].shape[1], 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
        ).double()
    optimizer = make(net.parameters())
    train(net, optimizer, rows, data)
    return net, optimizer


def train(
    net: torch.nn.Module,
    optimizer: Any,
    rows: Tensor,
    data: tuple[Tensor, Tensor],
    treatment: Treatment | None = None,
) -> None:
    """Go on with training, and treat the memory after each step.

    Args:
        net: changed in place.
        optimizer: changed in place.
        rows: indices, in their order.
        data: features and classes.
        treatment: whose `after_step` is called.
    """
    x, y = data
    for step, i in enumerate(rows.tolist(), 1):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        if isinstance(optimizer, EigenONS):
            optimizer.step(tag=i)
        else:
            optimizer.step()
        if treatment is not None:
            treatment.after_step(optimizer, step)


def network_probes(
    net: torch.nn.Module, data: tuple[Tensor, Tensor], forget: Tensor
) -> Probes:
    """Probe with a forget set, and with the rest as control.

    Args:
        net: the network.
        data: features and classes.
        forget: mask of the rows that are forgotten.

    Returns:
        The probes.
    """
    x, y = data
    gone, rest = (x[forget], y[forget]), (x[~forget], y[~forget])
    loss = torch.nn.functional.cross_entropy
    return Probes.of_module(net, loss, forget=gone, control=rest, retained=rest)


# -- twins ----------------------------------------------------------------------------


def downdate_by_clamping(optimizer: EigenONS, columns: Tensor) -> None:
    """Subtract whatever is given, and clamp: a twin of a downdate that checks.

    Args:
        optimizer: changed in place.
        columns: `(dim, m)`; nothing is asked about where they come from.
    """
    optimizer.memory = remove(optimizer.memory, columns, allow_clip=True).memory
    for group in optimizer.param_groups:
        group["treatments"] = (*group.get("treatments", ()), Downdate().policy)


def reset_cache_alone(optimizer: Any) -> None:
    """Reset the roots of Shampoo and leave the factors that they come from.

    Args:
        optimizer: changed in place; the next step computes the old roots again.
    """
    for state in optimizer.state.values():
        for name, buffer in state.items():
            if name.startswith("inv_pre_cond"):
                buffer.copy_(torch.eye(len(buffer)))
    _claim(optimizer)


def reset_factors_alone(optimizer: Any, floor: float) -> None:
    """Reset the factors of Shampoo and leave the roots that its steps use.

    Args:
        optimizer: changed in place; steps are preconditioned by the old roots until
            they are computed again.
        floor: what the factors start with.
    """
    for state in optimizer.state.values():
        for name, buffer in state.items():
            if name.startswith("pre_cond"):
                buffer.copy_(floor * torch.eye(len(buffer)))
    _claim(optimizer)


def _claim(optimizer: Any) -> None:
    """Write down the treatment that this pretends to be."""
    for group in optimizer.param_groups:
        group["treatments"] = (*group.get("treatments", ()), "Reset()")
