"""Noisy steps with clipped gradients, one block of parameters after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.density import Target
from pyro_geo.unlearning._uncertified import uncertified
from pyro_geo.unlearning.noise import gaussian_separation, noisy_steps_separation

__all__ = ["NoisySteps", "blocks_of", "clipped", "noisy_steps", "plan_steps"]


class NoisySteps(NamedTuple):
    """What is done in noisy steps.

    Attributes:
        radius: of the ball that the start is projected on.
        scale: standard deviation of the noise of a step.
        num_steps: for each block.
        bound: of a gradient.
        learning_rate: of a step.
        decay: towards the centre.
        blocks: coordinates of each block.
        shares: of radius and gradient that each block has; their squares sum to one.
        separation: of two runs, over all blocks.
    """

    radius: float
    scale: float
    num_steps: int
    bound: float
    learning_rate: float
    decay: float
    blocks: list[Tensor]
    shares: list[float]
    separation: float

    def settings(self) -> dict[str, Any]:
        """Return the numbers for a certificate."""
        return {
            "radius": self.radius,
            "noise of a step": self.scale,
            "noisy steps": self.num_steps,
            "gradient bound": self.bound,
            "learning rate": self.learning_rate,
            "decay": self.decay,
            "blocks": len(self.blocks),
        }


def clipped(v: Tensor, bound: float) -> Tensor:
    """Shorten a vector to a length of at most `bound`; one that is not finite is zero.

    Args:
        v: `(dim,)`.
        bound: at least 0.

    Returns:
        The vector, `(dim,)`.

    Example:
        >>> clipped(torch.tensor([3.0, 4.0]), 1.0).tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    length = v.norm()
    if not bool(length.isfinite()):
        return torch.zeros_like(v)
    # rounding down: the certificate bounds the length itself
    return v * min(1.0, bound / float(length) * (1 - 1e-12)) if length > 0 else v


def noisy_steps(
    target: Target,
    q: Tensor,
    centre: Tensor,
    plan: NoisySteps,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Project, step and add noise.

    Args:
        target: density of a module at the retained data.
        q: parameters, `(dim,)`.
        centre: of the ball, `(dim,)`.
        plan: what is done.
        batch_size: rows whose mean loss is the objective of a step.
        seed: of noise and batches.

    Returns:
        Parameters, `(dim,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    q = q.clone()
    for rows, share in zip(plan.blocks, plan.shares, strict=True):
        rows = rows.to(q.device)
        q[rows] = centre[rows] + clipped(q[rows] - centre[rows], plan.radius * share)
        for _ in range(plan.num_steps):
            slope = _gradient(target, q, batch_size, generator)[rows]
            step = clipped(slope, plan.bound * share)
            step = step + plan.decay * (q[rows] - centre[rows])
            noise = torch.randn(len(rows), generator=generator, dtype=torch.float64)
            q[rows] = q[rows] - plan.learning_rate * step + plan.scale * noise.to(q)
    return q


def _gradient(
    target: Target, q: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Gradient of the mean loss of a batch, with the part of the prior."""
    order = torch.randperm(len(target.data[0]), generator=generator)[:batch_size]
    batch = tuple(x[order.to(x.device)] for x in target.data)
    with torch.enable_grad():
        x = q.detach().requires_grad_()
        terms = target.density.terms(x, batch)
        prior = terms.log_prior / len(target.data[0])
        loss = -terms.log_likelihood / len(order) - prior
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.detach()


def plan_steps(
    target: Target,
    epsilon: float,
    delta: float,
    *,
    size: float,
    radius: float | None,
    noise: float | None,
    num_steps: int,
    bound: float,
    learning_rate: float | None,
    decay: float,
    blocks: Sequence[Sequence[str]] | None,
) -> NoisySteps:
    """Find the ball, the steps and the noise that belong together.

    Args:
        target: density of the module.
        epsilon: of the certificate.
        delta: of the certificate.
        size: of a parameter, for the noise that is used if none is given.
        radius: of the ball.
        noise: standard deviation of all noise together.
        num_steps: for each block.
        bound: of a gradient.
        learning_rate: of the steps.
        decay: towards the centre.
        blocks: names of parameters.

    Returns:
        The plan.
    """
    allowed = gaussian_separation(epsilon, delta)
    rate = learning_rate
    parts = blocks_of(target, blocks)
    share = [math.sqrt(len(part) / target.dim) for part in parts]

    def separation(radius: float, scale: float) -> float:
        steps = radius / num_steps if rate is None else rate * bound
        contraction = 1.0 if rate is None else 1 - rate * decay
        squares = 0.0
        for one in share:
            # each block makes its own steps from its own part of the ball
            squares += (
                noisy_steps_separation(
                    scale,
                    num_steps,
                    radius=radius * one,
                    step_bound=steps * one,
                    contraction=contraction,
                )
                ** 2
            )
        return math.sqrt(squares)

    check(
        rate is not None or decay == 0,
        "decay",
        decay,
        "0 where the learning rate is left out",
    )
    check(
        rate is None or rate * decay < 1,
        "decay",
        decay,
        "less than 1 / learning_rate",
    )
    if radius is None:
        total = size / 10 if noise is None else noise
        scale = total / math.sqrt(num_steps)
        # the separation is linear in the radius where the gradients' part is fixed
        base = separation(0.0, scale)
        if base >= allowed:
            uncertified(
                f"noise {total:.3g}, all of it needed by the gradients",
                "more noise, or a smaller learning rate",
                "argument noise",
            )
        low, high = 0.0, 1.0
        while separation(high, scale) < allowed:
            high *= 2
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if separation(middle, scale) <= allowed
                else (low, middle)
            )
        radius = low
    else:
        check_number("radius", radius, strict=True)
        scale = separation(radius, 1.0) / allowed * (1 + 1e-12)
    return NoisySteps(
        radius=radius,
        scale=scale,
        num_steps=num_steps,
        bound=bound,
        learning_rate=radius / (num_steps * bound) if rate is None else rate,
        decay=decay,
        blocks=parts,
        shares=share,
        separation=separation(radius, scale),
    )


def blocks_of(target: Target, blocks: Sequence[Sequence[str]] | None) -> list[Tensor]:
    """Find the coordinates of each block.

    Args:
        target: density of the module.
        blocks: names of parameters in each; one block if None.

    Returns:
        Coordinates, `(size,)` each.
    """
    if blocks is None:
        return [torch.arange(target.dim)]
    sites = target.layout.sites
    named = [name for block in blocks for name in block]
    good = sorted(named) == sorted(sites) and all(len(block) for block in blocks)
    check(good, "blocks", named, f"every one of {sorted(sites)} once")
    return [
        torch.cat([torch.arange(sites[n].start, sites[n].stop) for n in block])
        for block in blocks
    ]
