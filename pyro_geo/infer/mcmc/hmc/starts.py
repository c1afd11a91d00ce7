"""Where chains start: scattered, at Laplace approximations, or around other chains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import InitializationError
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer.mcmc.hmc.adaptation import Tuning, scattered
from pyro_geo.infer.transition import chain_state_at
from pyro_geo.optim.trust_region import polish

__all__ = [
    "StartStrategy",
    "first_start",
    "laplace_starts",
    "near_others",
    "scattered_starts",
]

StartStrategy = Strategy | Literal["laplace"]

_TRIES = 20
_NEWTON_STEPS = 100


def scattered_starts(
    target: Target,
    count: int,
    together: int,
    strategy: StartStrategy,
    noise: BlockNoise,
) -> Tensor:
    """Find starts, each for some chains together.

    Args:
        target: the density.
        count: chains.
        together: consecutive chains with one start.
        strategy: how; see :class:`~pyro_geo.infer.HMC`.
        noise: streams of the chains.

    Returns:
        Positions, `(chains, dim)`.
    """
    generators = [noise.generator(i) for i in range(0, count, together)]
    if strategy == "laplace":
        starts = target.initial_each(generators, "uniform")
        normals = noise.normal(_TRIES, target.dim, dtype=target.dtype)
        starts = laplace_starts(target, starts, normals[::together].to(target.device))
    else:
        starts = target.initial_each(generators, strategy)
    return starts.repeat_interleave(together, 0)


def first_start(target: Target, strategy: StartStrategy) -> Tensor:
    """Find the start of a single chain, `(1, dim)`, by torch's global generator."""
    if strategy != "laplace":
        return target.initial(1, strategy)
    start = target.initial(1, "uniform")
    normals = torch.randn(1, _TRIES, target.dim, dtype=target.dtype)
    return laplace_starts(target, start, normals.to(target.device))


def laplace_starts(target: Target, starts: Tensor, normals: Tensor) -> Tensor:
    r"""Climb to the mode next to each start and draw from the normal density there.

    .. math:: q \sim N(\hat q, H^{-1}), \qquad H = -\nabla^2 \log p(\hat q)

    Where the density is flat, or curved upwards, a direction has no such width; it
    gets the one of an eigenvalue of 1, that of a uniform start. A start from which no
    point of finite density is drawn stays at the mode.

    Args:
        target: the density.
        starts: where the climbs begin, `(starts, dim)`.
        normals: standard normal numbers, `(starts, tries, dim)`.

    Returns:
        Positions, `(starts, dim)`.
    """
    if target.rung == "compiled":  # a few dozen calls do not pay for compiling
        target = target.with_rung("traced")

    def potential_and_grad(q: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = target.value_and_grad(q)
        return -value, -grad

    def product(q: Tensor, v: Tensor) -> Tensor:
        return -target.hvp(q, v)

    mode = polish(
        potential_and_grad, product, starts, tolerance=1e-2, max_steps=_NEWTON_STEPS
    ).q
    # a flat or rising direction is as wide as a uniform start is
    approximation = laplace(target, mode, curvature="hessian", floor=0.0, flat=1.0)
    q, bad = _first_finite(target, approximation.sample, normals)
    return torch.where(bad[:, None], mode, q)


def near_others(
    target: Target,
    tuning: Tuning,
    chains: Sequence[int],
    together: int,
    noise: BlockNoise,
) -> Tensor:
    """Start later chains wider than the density, where it is finite.

    Args:
        target: the density.
        tuning: of the first group.
        chains: their indices.
        together: consecutive chains with one start.
        noise: their streams.

    Returns:
        Positions, `(chains, dim)`.

    Raises:
        InitializationError: no start of finite density.
    """
    normals = noise.normal(_TRIES, target.dim, dtype=target.dtype).to(target.device)
    normals = normals[::together].repeat_interleave(together, 0)
    q, bad = _first_finite(target, lambda normal: scattered(tuning, normal), normals)
    if not bool(bad.any()):
        return q
    raise InitializationError(
        "no finite start beside the first chains",
        where=f"chain {chains[int(bad.nonzero()[0])]}",
        found=f"{_TRIES} starts of infinite density",
        expected="a density that is finite around the draws of other chains",
        todo="Use at most 256 chains, or pass initial_params.",
    )


def _first_finite(
    target: Target, draw: Callable[[Tensor], Tensor], normals: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw each row until its density is finite; say which rows never were."""
    q = torch.empty_like(normals[:, 0])
    bad = torch.ones(len(q), dtype=torch.bool, device=q.device)
    for normal in normals.unbind(1):
        q = torch.where(bad[:, None], draw(normal), q)
        state = chain_state_at(target, q)
        bad = ~(state.potential.isfinite() & state.grad.isfinite().all(-1))
        if not bool(bad.any()):
            break
    return q, bad
