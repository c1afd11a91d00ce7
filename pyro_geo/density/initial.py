"""Starting positions of finite density and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pyro.infer.autoguide.initialization import init_to_median, init_to_sample
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.density._observed import not_finite
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.module import ModuleDensity
from pyro_geo.errors import InitializationError, UnsupportedError
from pyro_geo.ops.derivatives import value_and_grad

if TYPE_CHECKING:
    from pyro_geo.density.target import Target

__all__ = ["Strategy", "first_bad_site", "initial_each", "initial_positions"]

Strategy = Literal["uniform", "prior", "median"] | Callable[..., Any]

_TRIES = 100
_TODO = "Check the data and the site named, or pass initial positions."


def initial_positions(
    target: Target,
    num_chains: int,
    strategy: Strategy,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw a start for each chain, again where density or gradient is not finite."""
    return _search(
        target,
        num_chains,
        lambda rows: _draw(target, len(rows), strategy, generator),
    )


def initial_each(
    target: Target,
    generators: Sequence[torch.Generator],
    strategy: Strategy,
    known: Tensor | None = None,
) -> Tensor:
    """Draw each start from its own generator, but evaluate all of them together.

    Args:
        target: the density.
        generators: randomness, one for each start.
        strategy: see :meth:`Target.initial`.
        known: positions, `(starts, dim)`, that keep their numbers; NaN is drawn.

    Returns:
        Positions, `(starts, dim)`.
    """

    def draw(rows: list[int]) -> Tensor:
        q = torch.cat([_draw(target, 1, strategy, generators[i]) for i in rows])
        return q if known is None else torch.where(known[rows].isnan(), q, known[rows])

    return _search(target, len(generators), draw)


def _search(
    target: Target, num_chains: int, draw: Callable[[list[int]], Tensor]
) -> Tensor:
    """Draw rows until all have a finite density, at most a hundred times."""
    q = torch.empty(num_chains, target.dim, dtype=target.dtype, device=target.device)
    bad = list(range(num_chains))
    for _ in range(_TRIES):
        fresh = draw(bad).to(q)  # only the rows that failed so far
        q[bad] = fresh
        value, grad = value_and_grad(target.log_prob, fresh)
        finite = (value.isfinite() & grad.isfinite().all(-1)).tolist()
        bad = [row for row, good in zip(bad, finite, strict=True) if not good]
        if not bad:
            return q
    chain = bad[0]
    log_prob = float(target.log_prob(q[chain : chain + 1]))
    raise InitializationError(
        f"no finite start in {_TRIES} tries",
        where=f"chain {chain}, {first_bad_site(target, q[chain])}",
        found=f"log-density {log_prob}",
        expected="a finite log-density and gradient",
        todo=" ".join(filter(None, [not_finite(target.data), _TODO])),
    )


def _draw(
    target: Target,
    count: int,
    strategy: Strategy,
    generator: torch.Generator | None,
) -> Tensor:
    if isinstance(target.density, ModuleDensity) and strategy == "uniform":
        return target.density.fresh_starts(count, generator).to(target.dtype)
    if strategy == "uniform":
        unit = torch.rand(count, target.dim, dtype=target.dtype, generator=generator)
        return 4 * unit - 2  # on (-2, 2), as Pyro's init_to_uniform
    if not isinstance(target.density, ModelDensity):
        raise UnsupportedError(
            "this start needs a Pyro model",
            where="argument strategy",
            found=repr(strategy),
            expected="'uniform' for a potential or a module",
            todo="Use 'uniform' or pass initial positions.",
        )
    named = {"prior": init_to_sample, "median": init_to_median}
    known = not isinstance(strategy, str) or strategy in named
    expected = "'uniform', 'prior', 'median' or a function"
    check(known, "strategy", repr(strategy), expected)
    init_fn = named[strategy] if isinstance(strategy, str) else strategy
    # One run of the model for each start, with a seed of its own: strategies of Pyro
    # give one value for each site.
    rows = []
    for _ in range(count):
        seed = int(torch.randint(2**31, (), generator=generator))
        trace = target.density.prior_trace(target.data, seed, init_fn)
        nodes: Any = trace.nodes
        sites = {name: nodes[name]["value"] for name in target.layout.sites}
        rows.append(target.unconstrain(sites))
    return torch.stack(rows)


def first_bad_site(target: Target, q: Tensor) -> str:
    """Name the first site whose log-probability is not finite, and its value.

    Args:
        target: the density.
        q: one position, `(dim,)`.

    Returns:
        A few words for a message.
    """
    if not isinstance(target.density, ModelDensity):
        return "the potential"
    density = target.density
    values = target.layout.constrain(q)
    for name, log_prob in density.site_log_probs(q, target.data).items():
        if not log_prob.isfinite():
            if name in values:
                shown = f"value {_abbreviated(values[name])}"
            elif name in density.enumerated:
                shown = "each of its values"
            else:
                shown = _describe_data(density.observed_values(q, target.data)[name])
            if wrong := density.bad_parameter(name, q, target.data):
                shown = f"{shown}, {wrong}"
            return f"site {name!r} ({shown}, log-probability {float(log_prob)})"
    # All sites are finite: what is left is the Jacobian, the sum over discrete sites,
    # or a gradient that is not finite where the density is.
    terms = density.terms(q, target.data)
    if not (terms.log_prior + terms.log_likelihood).isfinite():
        if terms.log_likelihood.isfinite() or not density.enumerated:
            return f"the log-Jacobian at {_abbreviated(q)}"
        return f"the sum over the discrete sites {list(density.enumerated)}"
    return f"the gradient at {_abbreviated(q)}"


def _describe_data(value: Tensor) -> str:
    bad = int((~value.isfinite()).sum())
    if bad:
        return f"observed data, {bad} of {value.numel()} not finite"
    return "observed data"


def _abbreviated(value: Tensor) -> str:
    return str(value.detach().flatten()[:4].tolist())
