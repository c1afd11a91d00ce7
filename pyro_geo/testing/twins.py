"""Broken twins: wrappers that put one known fault into a sound kernel.

A test that no broken twin fails tests nothing. Each wrapper here makes exactly one
mistake that people do make, and the tests name the gate that must reject it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_geo.infer.mcmc._kernel import Block
from pyro_geo.infer.mcmc._noise import BlockNoise
from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad
from pyro_geo.target import Target
from pyro_geo.testing.hmc import FixedHMC, HMCState, leapfrog_transition

__all__ = [
    "ReusedNoise",
    "always_accept",
    "flip_gradient",
    "ignore_christoffel_term",
    "without_friction_work",
]

State = TypeVar("State")


def flip_gradient(loss: BatchedLoss) -> BatchedLoss:
    """Give a loss the right value and a gradient of the wrong sign.

    Args:
        loss: batched loss, `(lanes, dim) -> (lanes,)`.

    Returns:
        The broken loss; particles climb it.

    Example:
        >>> broken = flip_gradient(lambda q: q.square().sum(-1))
        >>> value_and_grad(broken, torch.ones(1, 1))
        (tensor([1.]), tensor([[-2.]]))
    """

    def broken(q: Tensor) -> Tensor:
        value = loss(q)
        return 2 * value.detach() - value

    return broken


def ignore_christoffel_term(loss: BatchedLoss) -> BatchedLoss:
    """Give a loss the right value and gradient, and no second derivatives.

    On a curved surface the particles then forget that the surface bends.

    Args:
        loss: batched loss, `(lanes, dim) -> (lanes,)`.

    Returns:
        The broken loss; its Hessian-vector products vanish.

    Example:
        >>> from pyro_geo.ops.derivatives import hvp
        >>> broken = ignore_christoffel_term(lambda q: q.square().sum(-1))
        >>> one = torch.ones(1, 1)
        >>> value_and_grad(broken, one)[1], hvp(broken, one, one)
        (tensor([[2.]]), tensor([[0.]]))
    """

    def broken(q: Tensor) -> Tensor:
        value, grad = value_and_grad(loss, q)
        return value + ((q - q.detach()) * grad).sum(-1)

    return broken


def without_friction_work(step: Callable[[State], State]) -> Callable[[State], State]:
    """Leave the friction's work out of the ledger of a flow's step.

    Args:
        step: of the splitting integrator, as `dissipative_flow(..., lift=...)` has it.

    Returns:
        The broken step.
    """

    def broken(state: Any) -> Any:
        new: Any = step(state)
        return new._replace(dissipated=state.dissipated)

    return broken


def always_accept(
    potential: Callable[[Tensor], Tensor],
    state: HMCState,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    num_steps: int,
) -> tuple[HMCState, Any]:
    """Make a transition of HMC that forgets to accept or reject.

    Args:
        potential: batched potential.
        state: where the chains are.
        momentum: momenta, `(chains, dim)`.
        uniform: numbers for the acceptance, `(chains,)`; not used.
        step_size: `()`.
        num_steps: leapfrog steps.

    Returns:
        The next state and what happened.
    """
    certain = torch.full_like(uniform, -1.0)
    return leapfrog_transition(
        potential, state, momentum, certain, step_size, num_steps
    )


class ReusedNoise(FixedHMC):
    """HMC that draws its random numbers once and uses them in every transition."""

    def block(
        self,
        target: Target,
        state: HMCState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make `draws` transitions of every chain, all with the first one's noise."""
        return super().block(target, state, chains, draws, _Stuck(noise))


class _Stuck(BlockNoise):
    def __init__(self, noise: BlockNoise) -> None:
        super().__init__(noise._streams)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = super().normal(*shape, dtype=dtype)
        return values[:, :1].expand_as(values)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = super().uniform(*shape, dtype=dtype)
        return values[:, :1].expand_as(values)
