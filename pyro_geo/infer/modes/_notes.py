"""What to know of a set of modes before its weights are used, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.laplace import Laplace
from pyro_geo.infer.modes._basins import distances, spectral
from pyro_geo.infer.modes._moves import Move, in_words
from pyro_geo.infer.modes._ridges import Open
from pyro_geo.infer.modes._search import Search

__all__ = ["Facts", "write_notes"]

_TRUSTED = 0.7
_FAR_OFF = math.log(1.5)  # between the Laplace mass and that by draws
_OVERLAP = 3.0  # standard deviations between two modes that are not apart
_MANY_DIMENSIONS = 30
_LISTED = 8


class Facts(NamedTuple):
    """What notes are made from; tensors are `(modes,)`."""

    log_laplace: Tensor
    log_mass: Tensor
    khat: Tensor
    flat: Tensor
    ridge: Sequence[int]
    counts: Tensor
    copies: Tensor
    normal: Laplace
    left_out: int
    more: Sequence[int]
    moves: Sequence[Move]
    rising: Open | None
    chance: float
    settled: bool


def write_notes(search: Search, facts: Facts) -> Iterator[str]:
    """Write the notes, the gravest first."""
    yield from _on_shape(search, facts)
    yield from _on_weights(facts)
    yield from _on_copies(facts)
    yield from _on_search(search, facts)


def _on_shape(search: Search, facts: Facts) -> Iterator[str]:
    if (end := facts.rising) is not None:
        if end.endless:
            yield (
                f"The log-density rises without end along {end.sites} (it is "
                f"{end.log_prob:.6g} where the climb was stopped): the posterior is "
                "not proper there, and weights mean nothing."
            )
        else:
            yield (
                f"A climb did not end: at log-density {end.log_prob:.6g} it still rose "
                f"along {end.sites}. There may be a mode or a ridge further up."
            )
    flat = facts.flat > 0
    if bool(flat.any()):
        points = max(n for n, f in zip(facts.ridge, flat.tolist(), strict=True) if f)
        seen = f" ({points} points of it were found and joined)" if points > 1 else ""
        yield (
            f"{_modes(flat)} a ridge: the density is as high along it{seen}. "
            "A continuous symmetry or a parameter that the data and the prior leave "
            "open does this. The weight of a ridge is not known."
        )
    shifts = [move for move in facts.moves if move.kind == "shift"]
    if shifts:
        yield (
            f"The density repeats: {'; '.join(in_words(shifts))}. It has modes without "
            "end, of which those found near the starts are listed."
        )


def _on_weights(facts: Facts) -> Iterator[str]:
    bad = (facts.khat >= _TRUSTED) & (facts.flat == 0)
    if bool(bad.any()):
        worst = float(facts.khat[bad].max())
        yield (
            f"{_modes(bad)} not normal in shape: the mass by draws is uncertain "
            f"(Pareto k up to {worst:.2f}; above {_TRUSTED} few draws decide, from 1 "
            "on the Laplace mass stands). Tails are long or bent; the weight may be "
            "far off."
        )
    gap = (facts.log_mass - facts.log_laplace).abs()
    off = (gap > _FAR_OFF) & ~bad & (facts.flat == 0)
    if bool(off.any()):
        yield (
            f"{_modes(off)} skewed or long in the tails: draws changed the Laplace "
            f"mass by a factor of up to {math.exp(float(gap[off].max())):.3g}."
        )
    values, vectors = spectral(facts.normal)
    apart = distances(facts.normal.mean, facts.normal.mean, values, vectors)
    apart = torch.minimum(apart, apart.mT)
    close = (apart < _OVERLAP).triu(1)
    if bool(close.any()):
        i, j = close.nonzero()[0].tolist()
        yield (
            f"Some modes overlap (modes {i} and {j} are {float(apart[i, j]):.2g} "
            "standard deviations apart): their masses are not separate."
        )


def _on_copies(facts: Facts) -> Iterator[str]:
    own = torch.arange(len(facts.copies), device=facts.copies.device)
    added = int(((facts.counts == 0).to(own.device) & (facts.copies != own)).sum())
    if added:
        yield (
            f"{added} of the modes were not found but are copies of others by a "
            "symmetry that was verified."
        )
    if facts.more:
        yield (
            f"Mode {facts.more[0]} has more copies than are listed; weights are shares "
            "of those listed."
        )


def _on_search(search: Search, facts: Facts) -> Iterator[str]:
    if not facts.settled:
        yield (
            f"The search ended after {search.rounds} rounds, while the chance that a "
            f"climb finds a new mode was still {facts.chance:.3f}: raise max_rounds."
        )
    dim = search.climber.target.dim
    if dim > _MANY_DIMENSIONS:
        yield (
            f"{search.climbs} climbs cover little of {dim} dimensions: modes that are "
            "hard to reach are easily missed."
        )
    if search.climber.non_finite:
        yield (
            f"{search.climber.non_finite} of {search.climber.evaluations} evaluations "
            "gave NaN or plus infinity and counted as density zero."
        )


def _modes(mask: Tensor) -> str:
    numbers = mask.nonzero().flatten().tolist()
    shown = ", ".join(map(str, numbers[:_LISTED]))
    more = ", ..." if len(numbers) > _LISTED else ""
    return f"Mode {shown} is" if len(numbers) == 1 else f"Modes {shown}{more} are"
