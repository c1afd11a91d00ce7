"""Training on what stays, by the optimisers that memories are known of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.errors import MissingExtraError
from pyro_geo.optim import EigenONS
from pyro_geo.unlearning.treatments import Treatment

__all__ = ["OPTIMISERS", "train_on", "with_prior"]

Make = Callable[[Iterable[Tensor]], Any]
Loss = Callable[[Tensor, Tensor], Tensor]


def train_on(
    module: torch.nn.Module,
    optimizer: Any,
    data: tuple[Tensor, ...],
    loss: Loss,
    treatment: Treatment | None = None,
    *,
    num_epochs: int,
    batch_size: int = 64,
    seed: int | torch.Generator = 0,
) -> None:
    """Train a module in place on the mean loss of batches.

    The training that :func:`~pyro_geo.unlearning.forget` does on retained data.

    Args:
        module: changed in place.
        optimizer: of its parameters, changed in place.
        data: inputs, and the targets last.
        loss: one value for each datum.
        treatment: of the memory, after each step.
        num_epochs: over the data.
        batch_size: rows of a batch.
        seed: of the order of the data, or a generator.

    Example:
        >>> line = torch.nn.Linear(1, 1, bias=False)
        >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> squares = lambda f, y: (f - y).square().sum(-1)
        >>> train_on(line, sgd, (x, 3 * x), squares, num_epochs=5)
        >>> round(line.weight.item(), 3)
        3.0
    """
    check_count("num_epochs", num_epochs, 0)
    check_count("batch_size", batch_size)
    generator = seed
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator)
    step = 0
    for _ in range(num_epochs):
        order = torch.randperm(len(data[0]), generator=generator)
        for rows in order.split(batch_size):
            batch = tuple(x[rows.to(x.device)] for x in data)
            optimizer.zero_grad()
            loss(module(*batch[:-1]), batch[-1]).mean().backward()
            optimizer.step()
            step += 1
            if treatment is not None:
                treatment.after_step(optimizer, step)


def with_prior(
    loss: Loss, module: torch.nn.Module, prior_precision: float, num_data: int
) -> Loss:
    r"""Add a normal prior on the parameters to the loss of each datum.

    .. math:: \ell_n(\theta) + \frac{\lambda}{2 N} \|\theta\|^2

    Args:
        loss: one value for each datum.
        module: whose parameters they are, as training changes them.
        prior_precision: :math:`\lambda`.
        num_data: `N`, that share the prior.

    Returns:
        The loss with the prior; the loss itself where the precision is 0.

    Example:
        >>> line = torch.nn.Linear(1, 1, bias=False)
        >>> _ = line.weight.data.fill_(3.0)
        >>> errors = lambda f, y: (f - y).square().sum(-1)
        >>> total = with_prior(errors, line, 2.0, 4)
        >>> total(torch.zeros(2, 1), torch.ones(2, 1)).tolist()
        [3.25, 3.25]
    """
    if prior_precision == 0:
        return loss

    def total(outputs: Tensor, targets: Tensor) -> Tensor:
        parts = [p.square().sum() for p in module.parameters()]
        prior = 0.5 * prior_precision / num_data * torch.stack(parts).sum()
        return loss(outputs, targets) + prior

    return total


def _peer(name: str, lr: float, **options: Any) -> Make:
    """Make an optimiser of another package, which is asked for when it is needed."""

    def make(params: Iterable[Tensor]) -> Any:
        try:
            import pytorch_optimizer
        except ImportError as reason:
            raise MissingExtraError(
                "the optimiser is not installed",
                where=name,
                found="no package pytorch_optimizer",
                expected="pytorch_optimizer",
                todo="Install pyro_geo[unlearning].",
            ) from reason
        return getattr(pytorch_optimizer, name)(params, lr, **options)

    return make


OPTIMISERS: Mapping[str, Make] = {
    "AdamW": lambda params: torch.optim.AdamW(params, 3e-3),
    "EigenONS": lambda params: EigenONS(params, 0.3, rank=64, floor=0.1),
    # vectors have no curvature without the first, and steps of five diverged here
    "SOAP": _peer("SOAP", 3e-3, precondition_1d=True, weight_decay=0.0),
    "Shampoo": _peer("Shampoo", 0.1, preconditioning_compute_steps=1, matrix_eps=1e-3),
}
"""Name to a function that makes the optimiser of parameters, with settings that serve
small networks."""
