"""Descent of many independent starts at once: Adam, then L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.ops.lanes import column, dot

__all__ = ["AdamResult", "adam", "adam_step", "lbfgs"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

_SUFFICIENT = 1e-4  # share of the predicted decrease that a step must bring
_HALVINGS = 12
_CALM = 3  # steps with little to win, after which a lane stops


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
    """Differences of positions and gradients of every lane, newest last."""

    step: Tensor  # (memory, lanes, dim)
    bend: Tensor  # (memory, lanes, dim)
    inverse: Tensor  # 1 / (step . bend), (memory, lanes, 1); 0 where there is no pair


@renamed(tol="tolerance")
def lbfgs(
    fn: ValueAndGrad,
    q: Tensor,
    num_steps: int,
    memory: int = 20,
    tolerance: float = 0.0,
) -> Tensor:
    """Minimise by L-BFGS, a history and a backtracking line search for every lane.

    Losses never rise. Each evaluation serves all lanes: one whose step was too long
    tries a shorter one while the others go on. A lane that finds no lower point stays
    where it is.

    Args:
        fn: `fn(q)`, losses `(lanes,)` and gradients `(lanes, dim)`.
        q: starts, `(lanes, dim)`.
        num_steps: most steps, those that were too long included.
        memory: pairs of differences that a lane stores.
        tolerance: slope along the step, in units of the loss: a lane stops after some
            steps in a row with no more than that, twice what a full step wins on a
            quadratic loss.

    Returns:
        The last positions, `(lanes, dim)`.

    References:
        Nocedal and Wright (2006), Numerical optimization, algorithms 7.4 and 3.1, and
        equation 3.58 for the shorter step.
    """
    value, g = fn(q)
    pairs = _Pairs(
        q.new_zeros(memory, *q.shape),
        q.new_zeros(memory, *q.shape),
        q.new_zeros(memory, len(q), 1),
    )
    direction, slope = _downhill(g, pairs)
    size, failed = torch.ones_like(value), torch.zeros_like(value, dtype=torch.long)
    active, calm = value.isfinite() & (slope < 0), torch.zeros_like(failed)
    for _ in range(num_steps):
        if not bool(active.any()):
            break
        trial = torch.where(column(active), q + column(size) * direction, q)
        new_value, new_g = fn(trial)
        lower = active & (new_value <= value + _SUFFICIENT * size * slope)
        lower &= (new_value < value) & new_g.isfinite().all(-1)
        pairs = _remember(pairs, trial - q, new_g - g, lower)
        shorter = _shorter(size, slope, new_value - value)
        q = torch.where(column(lower), trial, q)
        value = torch.where(lower, new_value, value)
        g = torch.where(column(lower), new_g, g)
        failed = torch.where(lower, 0, failed + 1)
        # a history that leads nowhere is forgotten; the gradient is tried once more
        lost = active & (failed > _HALVINGS)
        active = active & ~(lost & (pairs.inverse == 0).all(0).squeeze(-1))
        inverse = torch.where(column(lost), 0.0, pairs.inverse)
        pairs = pairs._replace(inverse=inverse)
        turned = lower | lost
        ahead, along = _downhill(g, pairs)
        direction = torch.where(column(turned), ahead, direction)
        slope = torch.where(turned, along, slope)
        size = torch.where(turned, 1.0, shorter)
        failed = torch.where(turned, 0, failed)
        # a history of few steps may know nothing of a direction that is soft
        calm = torch.where(slope < -tolerance, 0, calm + turned)
        # a decrease below the rounding of the loss cannot be seen
        seen = slope < -torch.finfo(q.dtype).eps * value.abs()
        active = active & seen & (calm < _CALM)
    return q


def _remember(pairs: _Pairs, step: Tensor, bend: Tensor, made: Tensor) -> _Pairs:
    """Add a pair to the history of those lanes that made a step."""
    # a pair is of use where the curvature along it is positive
    curvature = (step * bend).sum(-1, keepdim=True)
    useful = curvature > 1e-10 * (step * step).sum(-1, keepdim=True)
    made = made & useful.squeeze(-1)
    inverse = torch.where(useful, 1.0 / curvature, 0.0)
    return _Pairs(
        *(
            torch.where(made[:, None], torch.cat([old[1:], new[None]]), old)
            for old, new in zip(pairs, (step, bend, inverse), strict=True)
        )
    )


def _shorter(size: Tensor, slope: Tensor, rise: Tensor) -> Tensor:
    """Shorten a step to where a parabola has its minimum, by a half to a tenth."""
    bent = 2 * (rise - size * slope)
    best = -slope * size**2 / bent
    good = best.isfinite() & (bent > 0)
    half = 0.5 * size
    return torch.where(good, torch.minimum(torch.maximum(best, 0.1 * size), half), half)


def _downhill(g: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Give the direction to go and the slope along it."""
    direction = _two_loops(g, pairs)
    slope = dot(g, direction)
    # rounding can turn the direction uphill: start again from the gradient
    uphill = ~(slope < 0)
    scale = 1.0 / g.norm(dim=-1, keepdim=True).clamp(min=1.0)
    direction = torch.where(column(uphill), -scale * g, direction)
    return direction, dot(g, direction)


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
    bend, inverse = pairs.bend[-1], pairs.inverse[-1]
    newest = 1.0 / (inverse * (bend * bend).sum(-1, keepdim=True))
    short = 1.0 / g.norm(dim=-1, keepdim=True).clamp(min=1.0)
    return torch.where(inverse > 0, newest, short)
