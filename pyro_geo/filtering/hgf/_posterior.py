"""Beliefs of the filter in a fitted model, at draws of its posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import UnsupportedError
from pyro_geo.filtering.hgf.parameters import HGFParameters
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.results import PosteriorDraws
from pyro_geo.results.weights import equal_rows

__all__ = ["DrawnBeliefs", "draw_beliefs", "free_scales"]

_DRAWS = 200
_FEWEST = 20
_NUMBERS = 1 << 24  # in the beliefs of one kind: 128 MB in double precision


class DrawnBeliefs(NamedTuple):
    """Beliefs at draws of the parameters.

    Attributes:
        site: whose they are.
        trajectory: with a leading axis of draws, chain by chain.
        u: inputs, where the site has them.
        shape: chains and draws of each.
        notes: levels whose scale or origin nothing fixes.
    """

    site: str
    trajectory: Any
    u: Tensor | None
    shape: tuple[int, int]
    notes: list[str]


def draw_beliefs(
    fit: PosteriorDraws, site: str | None, num_draws: int | None
) -> DrawnBeliefs:
    """Run the filter of a fitted model at draws of its posterior.

    Args:
        fit: of a Pyro model.
        site: whose beliefs to take; None for the first one with inputs, else the first.
        num_draws: of all chains together; None for 200, fewer where that is too much.

    Returns:
        The beliefs.

    Raises:
        UnsupportedError: the fit is not that of a Pyro model.
    """
    target = fit.target
    density = target.density
    if not isinstance(density, ModelDensity):
        raise UnsupportedError(
            "there is no model whose beliefs could be drawn",
            where="HGFSeries.from_posterior",
            found=type(density).__name__,
            expected="draws of a Pyro model",
            todo="Sample a model whose inputs have the distribution HGF.",
        )

    def at(q: Tensor) -> dict[str, Any]:
        return density.observations(q, target.data)

    q = _equal_positions(fit)
    sites = at(q[0, 0])
    name = _choose(sites, site)
    seen = sites[name]

    def beliefs(one: Tensor) -> Any:
        found = at(one)[name]
        return _beliefs_of(found.fn, found.value)

    with torch.no_grad():
        if num_draws is None:
            one = _beliefs_of(seen.fn, seen.value)
            size = sum(x.numel() for x in pytree.tree_leaves(one.mu))
            num_draws = min(_DRAWS, max(_FEWEST, _NUMBERS // max(size, 1)))
        each = min(q.shape[1], -(-num_draws // q.shape[0]))
        index = torch.linspace(0, q.shape[1] - 1, each).round().long()
        some = q[:, index].flatten(0, 1)
        drawn = map_chunks(lambda rows: target.map(beliefs, rows), some)
    u = seen.value if hasattr(_inside(seen.fn), "trajectory") else None
    first, last = _levels_of(seen.fn), _levels_of(at(q[-1, -1])[name].fn)
    notes = [] if first is None or last is None else free_scales(first, last)
    return DrawnBeliefs(name, drawn, u, (q.shape[0], each), notes)


def free_scales(first: HGFParameters, second: HGFParameters) -> list[str]:
    """Name the levels whose scale or origin nothing fixes.

    Stretching level j by s changes no prediction where its coupling is divided by s,
    its variances and its initial belief are stretched; shifting it changes none where
    `omega` of the level below and its initial mean are shifted.

    Args:
        first: parameters at one draw.
        second: at another one; what differs is free.

    Returns:
        A sentence for each.
    """
    vary = {
        name: (x != y).flatten(0, -2).any(0).tolist()
        for name in ("omega", "kappa", "mu0", "pi0")
        for x, y in [
            torch.broadcast_tensors(
                *(torch.atleast_2d(getattr(p, name)) for p in (first, second))
            )
        ]
    }
    notes = []
    for j in range(1, len(vary["omega"])):
        from_zero = bool((first.mu0[..., j] == 0).all())
        mean_follows = vary["mu0"][j] or from_zero
        if all((vary["kappa"][j - 1], vary["omega"][j], vary["pi0"][j], mean_follows)):
            notes.append(
                f"The scale of level {j + 1} is not identified: kappa below it, its "
                "omega and its initial belief are all free. Fix kappa at 1."
            )
        if vary["omega"][j - 1] and vary["mu0"][j]:
            notes.append(
                f"The origin of level {j + 1} is not identified: its mu0 and omega of "
                f"level {j} are both free. Fix mu0 at 0."
            )
    return notes


def _equal_positions(fit: PosteriorDraws) -> Tensor:
    """Positions of equal weight, `(chains, draws, dim)`."""
    if fit.log_weights is None:
        return fit.positions
    rows = equal_rows(fit.log_weights, fit.run_seed)
    return fit.positions.flatten(0, 1)[rows.to(fit.positions.device)].unsqueeze(0)


def _choose(sites: dict[str, Any], site: str | None) -> str:
    inside = {name: _inside(found.fn) for name, found in sites.items()}
    believing = {
        name: hasattr(fn, "trajectory")
        for name, fn in inside.items()
        if hasattr(fn, "trajectory") or getattr(fn, "beliefs", None) is not None
    }
    if not believing:
        raise UnsupportedError(
            "no site of the model has beliefs",
            where="HGFSeries.from_posterior",
            found=f"observed sites {sorted(sites)}",
            expected="inputs with the distribution HGF, or responses to a trajectory",
            todo="Sample the inputs from HGF, or the responses from a class of "
            "pyro_geo.filtering.response.",
        )
    if site is None:
        return max(believing, key=lambda name: believing[name])
    check(site in believing, "site", repr(site), f"one of {sorted(believing)}")
    return site


def _inside(fn: Any) -> Any:
    """Take off what is around a distribution."""
    while not (hasattr(fn, "trajectory") or hasattr(fn, "beliefs")):
        inner = getattr(fn, "base_dist", None)
        if inner is None:
            return fn
        fn = inner
    return fn


def _levels_of(fn: Any) -> HGFParameters | None:
    """Parameters of a chain of levels, if the distribution has them."""
    fn = _inside(fn)
    found = getattr(fn, "parameters", None)
    return found if isinstance(found, HGFParameters) else None


def _beliefs_of(fn: Any, value: Tensor) -> Any:
    fn = _inside(fn)
    return fn.trajectory(value) if hasattr(fn, "trajectory") else fn.beliefs
