"""Descent of many independent starts at once: Adam, then L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AdamResult", "adam", "adam_step", "lbfgs"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

_SUFFICIENT = 1e-4  # share of the predicted decrease that a step must bring
_HALVINGS = 12


class AdamResult(NamedTuple):
    """Where Adam has been.

    Attributes:
        last: positions after the last step, `(lanes, dim)`.
        best: positions of the lowest loss met before it, `(lanes, dim)`.
        halfway: what was best half way, `(lanes, dim)`; the starts where a lane
            stopped before.
    """

    last: Tensor
    best: Tensor
    halfway: Tensor


def adam_step(
    fn: ValueAndGrad, q: Tensor, mean: Tensor, square: Tensor, t: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one step of Adam, pure in its tensors.

    A lane whose loss or gradient is not finite moves by its momentum alone, which can
    carry it past the points where they are not.

    Args:
        fn: `fn(q)`, losses `(lanes,)` and gradients `(lanes, dim)`.
        q: positions, `(lanes, dim)`.
        mean: running mean of gradients, `(lanes, dim)`.
        square: running mean of their squares, `(lanes, dim)`.
        t: number of this step from 1, `()`.
        size: of the step, `()`.

    Returns:
        Losses at `q`, the next positions and the two running means.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, 1412.6980,
        algorithm 1.
    """
    loss, grad = fn(q)
    usable = (loss.isfinite() & grad.isfinite().all(-1)).unsqueeze(-1)
    grad = torch.where(usable, grad, 0.0)
    mean = 0.9 * mean + 0.1 * grad
    square = 0.999 * square + 0.001 * grad * grad
    # both means start at zero, and are too small by these factors
    unbiased = mean / (1 - 0.9**t)
    scale = (square / (1 - 0.999**t)).sqrt() + 1e-8
    return loss, q - size * unbiased / scale, mean, square


def adam(
    step: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    q: Tensor,
    num_steps: int,
    learning_rate: float,
    *,
    check_every: int | None = None,
) -> AdamResult:
    """Minimise by Adam with a step that falls along a cosine.

    Args:
        step: :func:`adam_step` of a function, perhaps on the ladder.
        q: starts, `(lanes, dim)`.
        num_steps: how many steps at most.
        learning_rate: size of the first step.
        check_every: steps between two checks of the loss; a lane whose loss has hardly
            fallen since the last check stops. None for no stopping.

    Returns:
        The last, the best and the halfway positions.

    Example:
        >>> from functools import partial
        >>> bowl = lambda q: ((q * q).sum(-1), 2 * q)
        >>> result = adam(partial(adam_step, bowl), torch.ones(1, 2), 100, 0.1)
        >>> bool(result.last.abs().max() < 0.01)
        True
    """
    moments = (torch.zeros_like(q), torch.zeros_like(q))
    best_q, halfway = q, q
    best = torch.full_like(q[:, 0], torch.inf)
    at_last_check, done = best, torch.zeros_like(best, dtype=torch.bool)
    one = q.new_ones(())
    for t in range(1, num_steps + 1):
        share = (t - 1) / num_steps
        size = learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        loss, new_q, *moments = step(q, *moments, one * t, one * size)
        better = (loss < best) & ~done
        best_q = torch.where(better.unsqueeze(-1), q, best_q)
        best = torch.where(better, loss, best)
        q = torch.where(done.unsqueeze(-1), q, new_q)
        if check_every is not None and t % check_every == 0:
            done = done | (at_last_check - best <= 1e-3 + 1e-4 * best.abs())
            if bool(done.all()):
                break
            at_last_check = best
            if t <= num_steps // 2:  # shows later where training was heading
                halfway = torch.where(done.unsqueeze(-1), halfway, best_q)
    return AdamResult(q, best_q, halfway)


class _Pairs(NamedTuple):
    """Differences of positions and gradients, newest last."""

    step: list[Tensor]  # (lanes, dim) each
    bend: list[Tensor]  # (lanes, dim) each
    inverse: list[Tensor]  # 1 / (step . bend), (lanes, 1); 0 where it is of no use


def lbfgs(
    fn: ValueAndGrad,
    q: Tensor,
    num_steps: int,
    memory: int = 20,
    tolerance: float = 0.0,
) -> Tensor:
    """Minimise by L-BFGS, a history and a backtracking line search for every lane.

    Losses never rise. A lane that finds no lower point stays where it is. At a minimum
    that takes the whole line search, since rounding decides; a `tolerance` spares it.

    Args:
        fn: `fn(q)`, losses `(lanes,)` and gradients `(lanes, dim)`.
        q: starts, `(lanes, dim)`.
        num_steps: most steps.
        memory: pairs of differences that a lane stores.
        tolerance: a lane rests while its next step promises to lower the loss by less;
            the search ends once all lanes rest.

    Returns:
        The last positions, `(lanes, dim)`.

    References:
        Nocedal and Wright (2006), Numerical optimization, algorithms 7.4 and 3.1.
    """
    value, g = fn(q)
    pairs = _Pairs([], [], [])
    for _ in range(num_steps):
        direction = _two_loops(g, pairs)
        slope = (g * direction).sum(-1)
        # rounding can turn the direction uphill: start again from the gradient
        uphill = ~(slope < 0)
        direction = torch.where(uphill[:, None], -g, direction)
        slope = torch.where(uphill, -(g * g).sum(-1), slope)
        if tolerance > 0:
            # half of the slope is what a quadratic would fall by
            slope = torch.where(-0.5 * slope < tolerance, 0.0, slope)
            if not bool((slope < 0).any()):
                break
        new_q, new_value, new_g = _backtrack(fn, q, value, g, direction, slope)
        if torch.equal(new_q, q):
            if not pairs.step:
                break
            pairs = _Pairs([], [], [])  # no lane moved: try the gradient once more
            continue
        # a pair is of use where the curvature along it is positive
        step, bend = new_q - q, new_g - g
        curvature = (step * bend).sum(-1, keepdim=True)
        useful = curvature > 1e-10 * (step * step).sum(-1, keepdim=True)
        inverse = torch.where(useful, 1.0 / curvature, 0.0)
        for history, new in zip(pairs, (step, bend, inverse), strict=True):
            history.append(new)
            del history[:-memory]
        q, value, g = new_q, new_value, new_g
    return q


def _two_loops(g: Tensor, pairs: _Pairs) -> Tensor:
    """Multiply minus the gradient by the inverse Hessian that the pairs describe."""
    r = -g
    weights = []
    for step, bend, inverse in reversed(list(zip(*pairs, strict=True))):
        weights.append(inverse * (step * r).sum(-1, keepdim=True))
        r = r - weights[-1] * bend
    r = r * _scale(g, pairs)
    for step, bend, inverse in zip(*pairs, strict=True):
        r = r + step * (weights.pop() - inverse * (bend * r).sum(-1, keepdim=True))
    return r


def _scale(g: Tensor, pairs: _Pairs) -> Tensor:
    """Scale of the first guess, `(lanes, 1)`: newest curvature, else a short step."""
    # equation 7.20 of Nocedal and Wright, s.y / y.y of the newest pair
    scale = 1.0 / g.norm(dim=-1, keepdim=True).clamp(min=1.0)
    for bend, inverse in zip(pairs.bend, pairs.inverse, strict=True):
        newer = 1.0 / (inverse * (bend * bend).sum(-1, keepdim=True))
        scale = torch.where(inverse > 0, newer, scale)
    return scale


def _backtrack(
    fn: ValueAndGrad,
    q: Tensor,
    value: Tensor,
    g: Tensor,
    direction: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve every lane's own step until its loss has fallen enough."""
    size = torch.ones_like(value)
    done = ~(slope < 0)  # no descent there, or not finite
    best = q, value, g
    for _ in range(_HALVINGS):
        trial = torch.where(done[:, None], q, q + size[:, None] * direction)
        new_value, new_g = fn(trial)
        lower = ~done & (new_value <= value + _SUFFICIENT * size * slope)
        lower &= (new_value < value) & new_g.isfinite().all(-1)
        best = (
            torch.where(lower[:, None], trial, best[0]),
            torch.where(lower, new_value, best[1]),
            torch.where(lower[:, None], new_g, best[2]),
        )
        done = done | lower
        if done.all():
            break
        size = size * 0.5
    return best
