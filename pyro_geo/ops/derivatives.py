"""Value, gradient and Hessian-vector product of a batch of separate losses.

A batched loss maps `(lanes, dim)` to `(lanes,)`, and lane `i` of the output depends on
lane `i` of the input alone. So the gradient of the sum holds the gradient of every
lane, exactly, and a second reverse pass holds every lane's Hessian-vector product.
Reverse over reverse can be traced with `make_fx` and shares the forward pass. Forward
over reverse is several times slower once it is traced.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BatchedLoss", "hvp", "value_and_grad", "value_grad_hvp"]

BatchedLoss = Callable[[Tensor], Tensor]
"""A map `(lanes, dim) -> (lanes,)` whose lanes do not depend on each other."""


def _gradient(value: Tensor, q: Tensor, *, create_graph: bool) -> Tensor:
    """Differentiate `value.sum()` by `q`; zeros where `value` does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(q)
    (gradient,) = torch.autograd.grad(
        value.sum(), q, create_graph=create_graph, allow_unused=True
    )
    return torch.zeros_like(q) if gradient is None else gradient


def value_and_grad(loss: BatchedLoss, q: Tensor) -> tuple[Tensor, Tensor]:
    r"""Evaluate a batched loss and every lane's gradient in one reverse pass.

    Works inside `torch.no_grad()` and under `make_fx`; the input is left untouched
    and the outputs carry no autograd history.

    Args:
        loss: block-separable map `(lanes, dim) -> (lanes,)`.
        q: positions, `(lanes, dim)`.

    Returns:
        The values `(lanes,)` and the gradients `(lanes, dim)`.

    Example:
        >>> q = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> value, gradient = value_and_grad(lambda x: (x**2).sum(-1), q)
        >>> value.tolist(), gradient.tolist()
        ([5.0, 9.0], [[2.0, 4.0], [0.0, 6.0]])
    """
    with torch.enable_grad():
        x = q.detach().requires_grad_(True)  # a new tensor: `q` keeps its flag
        value = loss(x)
        gradient = _gradient(value, x, create_graph=False)
    return value.detach(), gradient.detach()


def value_grad_hvp(
    loss: BatchedLoss, q: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Evaluate a batched loss with gradient and Hessian-vector product, fused.

    The product is the gradient of :math:`\nabla L \cdot v` at fixed `v`, so one
    forward and two reverse passes serve all three.

    Args:
        loss: block-separable map `(lanes, dim) -> (lanes,)`, twice differentiable.
        q: positions, `(lanes, dim)`.
        v: directions, `(lanes, dim)`.

    Returns:
        The values `(lanes,)`, gradients and products `H v`, both `(lanes, dim)`.

    Example:
        >>> q, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
        >>> _, gradient, product = value_grad_hvp(lambda x: x.prod(-1) ** 2, q, v)
        >>> gradient.tolist(), product.tolist()
        ([[8.0, 4.0]], [[8.0, 8.0]])
    """
    with torch.enable_grad():
        x = q.detach().requires_grad_(True)
        value = loss(x)
        gradient = _gradient(value, x, create_graph=True)
        # the gradient of (gradient . v) at fixed v is H v
        product = _gradient(gradient * v.detach(), x, create_graph=False)
    return value.detach(), gradient.detach(), product.detach()


def hvp(loss: BatchedLoss, q: Tensor, v: Tensor) -> Tensor:
    r"""Multiply every lane's Hessian by that lane's direction.

    Args:
        loss: block-separable map `(lanes, dim) -> (lanes,)`, twice differentiable.
        q: positions, `(lanes, dim)`.
        v: directions, `(lanes, dim)`.

    Returns:
        The products `H v`, `(lanes, dim)`.

    Example:
        >>> q, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
        >>> hvp(lambda x: (x**3).sum(-1), q, v).tolist()
        [[0.0, 12.0]]
    """
    return value_grad_hvp(loss, q, v)[2]
