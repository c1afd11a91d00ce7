"""Draws of what is unknown, from whatever holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo.checks import check, check_shape
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import NonFiniteDataError
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.ops.weights import systematic

__all__ = ["Draws", "Pool", "choose", "pool_of"]

Draws = Any
"""A result of MCMC (ours or Pyro's), a guide, a posterior of parameters, or tensors."""

_KINDS = (
    "a tensor, a dictionary of sites, a result with get_samples(), a posterior of "
    "parameters, or a guide"
)
_FROM_GUIDE = 256  # a guide is run so often, once


@dataclass(frozen=True)
class Pool:
    """Draws to choose from.

    Attributes:
        values: rows of parameters, `(M, P)`, or site to values, `(M, ...)`.
        log_weights: of the draws, `(M,)`; None where they are equal.
    """

    values: Tensor | dict[str, Tensor]
    log_weights: Tensor | None = None

    def __len__(self) -> int:
        """Number of draws."""
        values = self.values
        return len(
            values if isinstance(values, Tensor) else next(iter(values.values()))
        )


@positional("seed")
def pool_of(source: Draws, *, seed: int = 0) -> Callable[[], Pool]:
    """Make a function that gives the draws of today.

    Args:
        source: one of

            - a tensor, `(M, P)`, of parameters of a plant;
            - a dictionary of site to draws, `(M, ...)`;
            - anything with `get_samples()`: a result of this library (resampled where
              its draws have weights), `pyro.infer.MCMC`;
            - a :class:`~pyro_geo.planning.ParameterPosterior`, which is asked at each
              plan, so that what was observed meanwhile counts;
            - a guide of Pyro, run without arguments; bind those that it needs.
        seed: of the draws of a guide.

    Returns:
        A function without arguments. A source of another kind is a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> len(pool_of({"mass": torch.ones(5)})())
        5
    """
    if callable(getattr(source, "knowledge", None)):

        def known() -> Pool:
            found = source.knowledge()
            return _checked(Pool(found.theta, found.log_weights))

        return known
    sampled = callable(getattr(source, "get_samples", None))
    known_kind = isinstance(source, (Tensor, Mapping)) or sampled or callable(source)
    check(known_kind, "draws", type(source).__name__, _KINDS)
    if isinstance(source, Tensor):
        values: Tensor | dict[str, Tensor] = source
    elif isinstance(source, Mapping):
        values = {name: torch.as_tensor(x) for name, x in source.items()}
    elif sampled:
        found: Any = source
        values = dict(found.get_samples())
    else:
        values = _of_guide(source, seed)
    pool = _checked(Pool(values))
    return lambda: pool


def choose(pool: Pool, count: int, seed: int) -> Tensor:
    """Choose draws for one plan: all, or as many as are asked for, by weight.

    Args:
        pool: draws.
        count: how many.
        seed: of the choice, which is systematic: neighbours in a chain are not chosen
            together.

    Returns:
        Their rows, `(S,)` with `S` at most `count`.

    Example:
        >>> choose(Pool(torch.ones(6, 1)), 3, seed=0).diff().tolist()
        [2, 2]
    """
    total, weights = len(pool), pool.log_weights
    if weights is None:
        if total <= count:
            return torch.arange(total)
        weights = torch.zeros(total, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    return systematic(weights.double(), uniform.to(weights.device), count)


def _of_guide(guide: Callable[..., Any], seed: int) -> dict[str, Tensor]:
    rows: list[dict[str, Tensor]] = []
    with torch.no_grad(), private_randomness(substream(seed, 0)):
        for _ in range(_FROM_GUIDE):
            trace = poutine.trace(guide).get_trace()
            sites = random_sites(trace)
            # what an autoguide draws inside is no site of the model
            rows.append(
                {
                    name: site["value"].detach()
                    for name, site in sites.items()
                    if not site["infer"].get("is_auxiliary")
                }
            )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _checked(pool: Pool) -> Pool:
    values = pool.values
    named = {"draws": values} if isinstance(values, Tensor) else values
    check(len(named) > 0, "draws", "no site", "at least one site with draws")
    sizes = {len(x) if x.dim() else 0 for x in named.values()}
    check_shape("draws", [*sizes], "one number of draws for all sites", len(sizes) == 1)
    check(0 not in sizes, "draws", "no draw", "at least one draw")
    for name, value in named.items():
        finite = value.isfinite().reshape(len(value), -1).all(-1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise NonFiniteDataError(
                "a draw is not finite",
                where=f"argument draws, {name}, draw {row}",
                found=value[row].tolist(),
                expected="finite numbers",
                todo="Leave that draw out.",
            )
    return pool
