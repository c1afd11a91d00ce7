"""Checks that a prior is the same whatever the examples are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density.structure import is_deterministic, random_sites
from pyro_geo.errors import PriorDependsOnDataError
from pyro_geo.infer.gibbs.model import GibbsModel, without_data
from pyro_geo.infer.gibbs.rows import Examples
from pyro_geo.ops.random import private_randomness

__all__ = ["check_observed", "check_prior", "refuse_prior"]

_DRAWS = 2  # of the prior, beside the positions given

Values = dict[str, Tensor]


def check_prior(
    model: GibbsModel, sites: Sequence[Values], examples: Examples
) -> list[str]:
    """Refuse a prior that is another one with other examples.

    Args:
        model: prior and predictor.
        sites: values of the latent sites at some positions.
        examples: to certify on.

    Returns:
        What is left to assume.
    """
    n = examples.n
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    everything = torch.arange(n)
    batches = {
        "the rows in another order": examples.take(order),
        "the targets in another order": examples.with_other_targets(order),
        "other examples": examples.others(2),
        "yet other examples": examples.others(3),
        "fewer rows": examples.take(everything[: max(1, n // 2)]),
    }
    left = []
    _check_drawn(model, examples)
    given: list[Values] = [*sites, *[{}] * _DRAWS]
    for seed, values in enumerate(given):
        first = _densities(model, values, examples.args, seed)
        for batch, (args, _) in batches.items():
            try:
                found = _densities(model, values, args, seed)
            except (RuntimeError, ValueError, IndexError):
                found = {}  # a site of a shape that no longer fits
            name = _changed(first, found)
            if name is None:
                continue
            if batch == "fewer rows" and _same_shape(first, found, name):
                left.append(
                    f"The prior of {name!r} depends on the number of certifying "
                    "examples alone, which was known beforehand."
                )
                continue
            refuse_prior(
                "the prior depends on the certifying data",
                f"model {model.model_name!r}, site {name!r}",
                f"another prior with {batch}",
                "Fix the prior beforehand, or learn it from the first part of "
                "split_prior and certify on the second.",
            )
    return left


def _check_drawn(model: GibbsModel, examples: Examples) -> None:
    """Refuse a model whose latent sites are put at values by a handler."""
    one, other = (_densities(model, {}, examples.args, seed) for seed in (0, 1))
    for name in one:
        same = name in other and one[name][0].shape == other[name][0].shape
        if same and bool((one[name][0] == other[name][0]).all()):
            refuse_prior(
                "the prior is not drawn from",
                f"model {model.model_name!r}, site {name!r}",
                "one value in two draws, as by poutine.replay",
                "Pass the model without handlers that give its latent sites values.",
            )


def _densities(
    model: GibbsModel, values: Values, args: Any, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Values of the latent sites, drawn where they are not given, with densities."""
    # where all sites are given there is nothing to draw, and seeding takes its time
    with nullcontext() if values else private_randomness(seed):
        run = poutine.condition(without_data(model.model), data=values)
        sites = random_sites(poutine.trace(run).get_trace(*args))
    return {
        name: (site["value"], site["fn"].log_prob(site["value"]))
        for name, site in sites.items()
        if not is_deterministic(site) or name in values
    }


def _changed(first: dict[str, Any], found: dict[str, Any]) -> str | None:
    for name in (*first, *found):
        if name not in first or name not in found:
            return name
        for one, other in zip(first[name], found[name], strict=True):
            if one.shape != other.shape:
                return name
            if not bool(((one == other) | (one.isnan() & other.isnan())).all()):
                return name
    return None


def _same_shape(first: dict[str, Any], found: dict[str, Any], name: str) -> bool:
    both = name in first and name in found
    return both and first[name][0].shape == found[name][0].shape


class _Move(Messenger):
    """Give the model other values of what it observes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.name:
            value = torch.as_tensor(msg["value"])
            moved = value + 1 if value.dtype != torch.bool else ~value
            msg["value"] = moved


def check_observed(model: GibbsModel, values: Values, examples: Examples) -> None:
    """Refuse a model that predicts with the value of an observed statement.

    A latent site that was conditioned is such a statement: its value comes from
    somewhere, and nothing has paid for it.

    Args:
        model: prior and predictor.
        values: of the latent sites.
        examples: to certify on.
    """
    run = poutine.condition(model.model, data=values)
    trace = poutine.trace(run).get_trace(*examples.args)
    observed = [
        name
        for name, site in random_sites(trace).items()
        if site["is_observed"] and name not in values and not is_deterministic(site)
    ]
    first = run(*examples.args)
    for name in observed:
        with _Move(name):
            moved = run(*examples.args)
        if not _equal(first, moved):
            refuse_prior(
                "the prediction uses the value of an observed site",
                f"model {model.model_name!r}, site {name!r}",
                "a value that no prior has paid for, by poutine.condition or obs=",
                "Leave the site latent, and predict without the value of others.",
            )


def _equal(first: Any, second: Any) -> bool:
    pairs = zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True)
    return all(
        bool(((a == b) | (a.isnan() & b.isnan())).all())
        if isinstance(a, Tensor)
        else a == b
        for a, b in pairs
    )


def refuse_prior(what: str, where: str, found: str, todo: str) -> NoReturn:
    """Refuse a prior or a model that knows the certifying data."""
    raise PriorDependsOnDataError(
        what,
        where=where,
        found=found,
        expected="nothing that depends on the certifying examples",
        todo=todo,
    )
