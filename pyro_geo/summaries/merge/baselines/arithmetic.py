"""Means of networks, and sums of what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._reader import (
    Reader,
    Rule,
    elementwise,
    run,
    shifted,
)
from pyro_geo.summaries.merge._tasks import Models, StateDict, Weights, read_weights

__all__ = ["average", "task_arithmetic"]


@cites("average")
def average(
    base: StateDict,
    models: Models,
    *,
    weights: Weights = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Average networks: the mean of their parameters.

    .. math:: \theta = \sum_k w_k \theta_k, \qquad \sum_k w_k = 1.

    Args:
        base: gives the order, the types, and what is not merged.
        models: task to its tensors, or a sequence.
        weights: of the tasks; equal if None.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Wortsman et al. (2022), Model soups: averaging weights of multiple fine-tuned
        models improves accuracy without increasing inference time, arXiv 2203.05482.

    Example:
        >>> base = {"w": torch.zeros(2)}
        >>> average(base, [{"w": torch.tensor([1.0, 4.0])}, {"w": torch.ones(2)}])
        {'w': tensor([1.0000, 2.5000])}
    """
    options = {"weights": weights}
    return run(base, models, average_rule, options, shared, dtype)


@cites("task_arithmetic")
def task_arithmetic(
    base: StateDict,
    models: Models,
    *,
    scale: float = 0.3,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Add the sum of all differences to the base.

    .. math:: \theta = \theta_0 + \lambda \sum_k (\theta_k - \theta_0).

    With :math:`\lambda = 1/K` it is :func:`average`. The best scale depends on the
    tasks; choose it by data that were not used for training.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        scale: :math:`\lambda`.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Ilharco et al. (2023), Editing models with task arithmetic, arXiv 2212.04089.

    Example:
        >>> base = {"w": torch.ones(2)}
        >>> models = [{"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([3.0, 1.0])}]
        >>> task_arithmetic(base, models, scale=0.5)
        {'w': tensor([2.0000, 2.5000])}
    """
    return run(base, models, arithmetic_rule, {"scale": scale}, shared, dtype)


def average_rule(reader: Reader, weights: Weights = None) -> Rule:
    """Rule of :func:`average`."""
    share = read_weights(weights, reader.tasks)

    @elementwise
    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        return torch.tensordot(share.to(stack), stack, 1)

    return rule


def arithmetic_rule(reader: Reader, scale: float = 0.3) -> Rule:
    """Rule of :func:`task_arithmetic`."""
    check_number("scale", scale, -float("inf"))

    @elementwise
    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        return shifted(base, stack.sub_(base).sum(0), scale)

    return rule
