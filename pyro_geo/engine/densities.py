"""Values of a density at known positions, to tell it from any other."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._process import one_thread
from pyro_geo.density import Target
from pyro_geo.engine.identity import Likeness
from pyro_geo.errors import CheckpointError
from pyro_geo.ops.chunks import map_chunks

__all__ = [
    "KnownDensity",
    "at_draws",
    "at_probes",
    "check_known",
    "check_values",
]

LogProb = Callable[[Target, Tensor], Tensor]

_ROWS = 4  # positions evaluated side by side, always as many
_SPREADS = (0.1, 1.0, 3.0)  # of the fixed positions around the origin
_ALIGNMENT = 64  # bytes
_WIDE = 3.0  # spread of positions around draws, in standard deviations
_PARTS = ("log-prior", "log-likelihood", "log-density")
# Rounding errors that two ways of computing the same may differ by, relative to what
# one rounding error in the position does.
_ULPS, _OTHER_CODE = 256, 1024


class KnownDensity(NamedTuple):
    """What a density was at some positions.

    Attributes:
        q: positions, `(points, dim)`.
        values: log-prior, log-likelihood and what the sampler calls its log-density,
            `(points, 3)`; NaN where the model cannot be evaluated.
    """

    q: Tensor
    values: Tensor


def at_probes(target: Target, log_prob: LogProb) -> KnownDensity:
    """Evaluate a density at fixed positions, near the origin and far from it.

    Args:
        target: the density.
        log_prob: what the sampler takes for its logarithm, of a target and positions.

    Returns:
        Positions and values.
    """
    normal = _normal(len(_SPREADS) * _ROWS, target)
    spreads = torch.tensor(_SPREADS).repeat_interleave(_ROWS).to(normal)
    return _evaluated(target, log_prob, spreads[:, None] * normal)


def at_draws(target: Target, log_prob: LogProb, draws: Tensor) -> KnownDensity:
    """Evaluate a density at some draws and in a wide region around them.

    Args:
        target: the density.
        log_prob: what the sampler takes for its logarithm, of a target and positions.
        draws: positions, `(draws, dim)`.

    Returns:
        Positions and values.
    """
    rows = torch.linspace(0, len(draws) - 1, _ROWS).long().to(draws.device)
    finite = draws[draws.isfinite().all(-1)]
    centre = finite.mean(0) if len(finite) else torch.zeros_like(draws[0])
    spread = finite.std(0, correction=0) if len(finite) else torch.ones_like(centre)
    # draws that all agree say nothing of the region around them
    spread = torch.maximum(spread, 0.1 * (1 + centre.abs()))
    around = centre + _WIDE * spread * _normal(_ROWS, target)
    return _evaluated(target, log_prob, torch.cat([draws[rows], around]))


def check_known(
    where: str,
    target: Target,
    known: KnownDensity,
    log_prob: LogProb,
    likeness: Likeness,
) -> None:
    """Compare a density with what it was.

    Args:
        where: the store, for the message.
        target: the density now.
        known: what it was.
        log_prob: what the sampler takes for its logarithm, of a target and positions.
        likeness: what else is the same.

    Raises:
        CheckpointError: it is another one, or the record is damaged.
    """
    q, values = known
    fits = isinstance(q, Tensor) and isinstance(values, Tensor) and q.dim() == 2
    if not fits or q.shape[1] != target.dim or values.shape != (len(q), 3):
        raise CheckpointError(
            "what a store knows of its density is damaged",
            where=where,
            found=[tuple(getattr(x, "shape", ())) for x in known],
            expected=f"(points, {target.dim}) and (points, 3)",
            todo="Begin anew; the draws can be read.",
        )
    for column, name in enumerate(_PARTS):

        def part(x: Tensor, column: int = column) -> Tensor:
            return _evaluated(target, log_prob, x).values[:, column]

        check_values(where, name, part, q, values[:, column], exact=likeness.exact)


def check_values(
    where: str,
    what: str,
    fn: Callable[[Tensor], Tensor],
    q: Tensor,
    stored: Tensor,
    *,
    exact: bool = False,
    ulps: int = _OTHER_CODE,
) -> None:
    """Compare stored values of a function with those of now.

    Args:
        where: the store, for the message.
        what: the values are.
        fn: the function now, `(points, dim)` to `(points,)`.
        q: positions, `(points, dim)`.
        stored: values there, `(points,)`.
        exact: whether their last bits must be the same; otherwise rounding is allowed
            for, by how far the values move where positions move by their last bit.
        ulps: how many times as far they may be apart.

    Raises:
        CheckpointError: they differ.
    """
    now = fn(q).to(stored)
    differs = ~((now == stored) | (now.isnan() & stored.isnan()))
    if differs.any() and not exact:
        differs &= ~((now - stored).abs() <= ulps * _rounding(fn, q, now))
    if not differs.any():
        return
    point = int(differs.double().argmax())
    raise CheckpointError(
        "the density is not the one that was sampled",
        where=f"{where}, {what} at a stored position",
        found=float(now[point]),
        expected=float(stored[point]),
        todo="Go on with the model and the data that began the run.",
    )


def _rounding(fn: Callable[[Tensor], Tensor], q: Tensor, value: Tensor) -> Tensor:
    """How far values move where positions, or the values, move by their last bit."""
    # what moves far there is made of large terms, whether or not these cancel
    eps = torch.finfo(q.dtype).eps
    scale = value.abs().nan_to_num(0.0, 0.0, 0.0) + q.shape[1] + 1
    numbers = np.random.Generator(np.random.Philox(key=[0, 2]))
    moved = torch.zeros_like(value)
    for _ in range(3):
        signs = torch.from_numpy(numbers.choice([-1.0, 1.0], q.shape)).to(q)
        there = fn(q + eps * q.abs().clamp(min=1.0) * signs).to(value)
        moved = torch.maximum(moved, (there - value).abs().nan_to_num(0.0, 0.0, 0.0))
    return moved + eps * scale


def _evaluated(target: Target, log_prob: LogProb, q: Tensor) -> KnownDensity:
    """Evaluate as it is done always: on one thread, as many rows at once, no graph."""

    def parts(rows: Tensor) -> Tensor:
        terms = target.terms(rows)
        return torch.stack([*terms, log_prob(target, rows)], -1).to(q.dtype)

    values: Sequence[Tensor] = []
    # how memory is aligned may decide how sums are rounded: torch's own always is
    target = target.bind(tuple(_aligned(x) for x in target.data))
    q = _aligned(q.detach().contiguous())
    with torch.no_grad(), one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows in q.split(_ROWS):
            part = torch.full((len(rows), 3), torch.nan).to(q)
            # a model may raise anything where no chain has ever been
            with contextlib.suppress(Exception):
                part = map_chunks(parts, rows, _ROWS)
            values = [*values, part]
    return KnownDensity(q, torch.cat([*values]))


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % _ALIGNMENT == 0 else x.clone()


def _normal(rows: int, target: Target) -> Tensor:
    """Fixed standard normal positions, `(rows, dim)`."""
    numbers = np.random.Generator(np.random.Philox(key=[0, 0]))
    q = torch.from_numpy(numbers.standard_normal((rows, target.dim)))
    return q.to(target.dtype).to(target.device)
