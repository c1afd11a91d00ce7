"""Draws of hidden states and inputs, vectorised over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.filtering.hgf.parameters import HGFParameters

__all__ = ["draw_inputs", "draw_states"]


def draw_states(
    parameters: HGFParameters,
    time_step: Tensor,
    sample_shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the hidden states of all levels, from the highest to the lowest.

    Given the level above, a level is an autoregression of first order with known
    increments, which is summed in about log T operations.

    Args:
        parameters: of the levels, batch shape `(*batch,)`.
        time_step: time since the step before, `(*batch, T)`.
        sample_shape: of independent draws.
        generator: of random numbers; torch's global one if None.

    Returns:
        `(*sample_shape, *batch, T, L)`.
    """
    batch = torch.broadcast_shapes(parameters.omega.shape[:-1], time_step.shape[:-1])
    steps, count = time_step.shape[-1], parameters.omega.shape[-1]
    like = parameters.omega

    def normal(*shape: int) -> Tensor:
        size = (*sample_shape, *batch, *shape)
        return torch.randn(
            size, dtype=like.dtype, device=like.device, generator=generator
        )

    log_t = time_step.log()
    limit = 600.0 if like.dtype == torch.float64 else 60.0
    start = parameters.mu0 + parameters.pi0.rsqrt() * normal(count)
    levels: list[Tensor] = []
    for j in reversed(range(count)):
        log_variance = log_t + parameters.omega[..., j, None]
        drift = parameters.drift[..., j, None]
        if levels:
            above = levels[-1]
            log_variance = log_variance + parameters.kappa[..., j, None] * above
            drift = drift + parameters.value_coupling[..., j, None] * above
        # a state that wanders off would overflow, and NaN follow from infinities
        scale = torch.exp(0.5 * log_variance.clamp(max=limit))
        increments = time_step * drift + scale * normal(steps)
        rate = parameters.autoconnection[..., j, None]
        first = increments[..., :1] + rate * start[..., j, None]
        levels.append(_summed(torch.cat([first, increments[..., 1:]], -1), rate))
    return torch.stack(levels[::-1], -1)


def _summed(increments: Tensor, rate: Tensor) -> Tensor:
    r"""Sum an autoregression, :math:`x_k = \lambda x_{k-1} + b_k`, from zero."""
    total, shift = increments, 1
    while shift < increments.shape[-1]:
        zeros = torch.zeros_like(total[..., :shift])
        before = torch.cat([zeros, total[..., :-shift]], -1)
        total, rate, shift = total + rate * before, rate * rate, 2 * shift
    return total


def draw_inputs(
    states: Tensor,
    input_precision: Tensor,
    kind: Literal["continuous", "binary", "categorical"],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw an input at every step, given the states.

    Args:
        states: `(*batch, T, L)`; `(*batch, K, T, L)` for K classes.
        input_precision: of a continuous input, `(*batch,)`.
        kind: of input.
        generator: of random numbers; torch's global one if None.

    Returns:
        `(*batch, T)`: numbers, 0 or 1, or the numbers of classes.
    """
    lowest = states[..., 0]
    like = {"dtype": states.dtype, "device": states.device, "generator": generator}
    if kind == "continuous":
        noise = torch.randn(lowest.shape, **like)
        return lowest + input_precision.rsqrt()[..., None] * noise
    if kind == "binary":
        ones = torch.rand(lowest.shape, **like) < torch.sigmoid(lowest)
        return ones.to(states.dtype)
    # the largest of log-probabilities with Gumbel noise is a draw
    uniform = torch.rand(lowest.shape, **like)
    tiny = torch.finfo(states.dtype).tiny
    gumbel = -torch.log((-torch.log(uniform.clamp(min=tiny))).clamp(min=tiny))
    return (torch.nn.functional.logsigmoid(lowest) + gumbel).argmax(-2)
