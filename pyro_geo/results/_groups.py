"""The groups that a result hands to ArviZ."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.density import Target
from pyro_geo.errors import FallbackWarning, UnsupportedError
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.results.draws import Draws
from pyro_geo.results.predictive import Replicator

__all__ = [
    "LogLikelihood",
    "arrays",
    "check_likelihood",
    "check_prior",
    "lazy_groups",
    "make_groups",
]

Group = dict[str, np.ndarray]
LogLikelihood = bool | Literal["step", "datum"]


def arrays(tensors: Mapping[str, Tensor]) -> Group:
    """Copy tensors to NumPy."""
    return {name: to_numpy(value) for name, value in tensors.items()}


def check_likelihood(log_likelihood: LogLikelihood) -> None:
    """Refuse anything but a truth value and the two kinds of data."""
    check_choice("log_likelihood", log_likelihood, (True, False, "step", "datum"))


def check_prior(prior: int) -> None:
    """Refuse a number of prior draws that is no count."""
    # True would be a single draw
    good = isinstance(prior, int) and not isinstance(prior, bool) and prior >= 0
    check(good, "prior", repr(prior), "an integer of at least 0, 0 for no draws")


def lazy_groups(
    folder: str | os.PathLike[str], predictions: bool, log_likelihood: LogLikelihood
) -> Any:
    """Open draws that are in a store alone; what would load them is not offered.

    Args:
        folder: the store.
        predictions: whether prior or predictive draws were asked for.
        log_likelihood: whether the likelihood was asked for.

    Returns:
        The store as ArviZ data.

    Raises:
        UnsupportedError: predictions were asked for.
    """
    from pyro_geo.io.store import open_run

    if predictions:
        raise UnsupportedError(
            "the draws are too many for predictive ones",
            where="argument memory_limit of the run",
            found=f"draws in {folder} alone",
            expected="draws in memory",
            todo="Resume with a larger memory_limit, or thin.",
        )
    if log_likelihood:
        warnings.warn(
            f"The likelihood of each datum is left out: the draws are in "
            f"{folder} alone and are not loaded.",
            FallbackWarning,
            stacklevel=3,
        )
    return open_run(folder)


def make_groups(
    target: Target,
    draws: Draws,
    replicator: Replicator | None,
    *,
    log_likelihood: LogLikelihood,
    prior: int,
    posterior_predictive: bool,
) -> dict[str, Group]:
    """Evaluate the groups that are wanted at draws of equal weight.

    Args:
        target: the density.
        draws: of equal weight, in memory.
        replicator: makes prior and predictive draws; None where there are none.
        log_likelihood: of what to evaluate it, if at all.
        prior: number of prior draws.
        posterior_predictive: whether to draw data.

    Returns:
        Group to arrays; groups without arrays are left out.
    """
    names = list(dict.fromkeys([*draws.shapes, *draws.computed]))
    groups: dict[str, Group] = {
        "posterior": arrays(draws.sites(names)),
        "sample_stats": arrays(draws.stats()),
    }
    if log_likelihood:
        groups["log_likelihood"] = _pointwise(target, draws, log_likelihood)
    if posterior_predictive:
        assert replicator is not None
        groups["posterior_predictive"] = _replicated(target, draws, replicator)
    if prior:
        assert replicator is not None
        latent, data = replicator.prior(prior)
        for name, sites in (("prior", latent), ("prior_predictive", data)):
            groups[name] = arrays({n: v.unsqueeze(0) for n, v in sites.items()})
    groups["observed_data"] = arrays(target.observed)
    return {name: group for name, group in groups.items() if group}


def _pointwise(target: Target, draws: Draws, per: LogLikelihood) -> Group:
    """Log-likelihood of each datum; nothing where positions were not kept."""
    whole = target.pointwise_log_likelihood
    fn = whole if per == "datum" else target.stepwise_log_likelihood
    try:
        return arrays(_each(fn, draws))
    except UnsupportedError as reason:
        warnings.warn(str(reason), FallbackWarning, stacklevel=5)
        return {}


def _replicated(target: Target, draws: Draws, replicator: Replicator) -> Group:
    """Draw the observed sites, or what the model predicts, at each draw."""
    observed = target.observed
    if not observed and replicator.predictive is None:
        raise UnsupportedError(
            "the model has no data to draw",
            where="argument posterior_predictive",
            found=f"sites {sorted(target.dims)}",
            expected="a sample statement with obs",
            todo="Leave posterior_predictive out.",
        )
    q = draws.positions()
    sites = replicator.posterior(q.flatten(0, -2), (), {})
    computed = draws.computed
    wanted = observed or [name for name in sites if name not in computed]
    return arrays({n: sites[n].unflatten(0, q.shape[:-1]) for n in wanted})


def _each(fn: Callable[[Tensor], dict[str, Tensor]], draws: Draws) -> dict[str, Tensor]:
    """Map a batched function of positions over all draws."""
    q = draws.positions()
    values = map_chunks(fn, q.flatten(0, -2))
    return {name: value.unflatten(0, q.shape[:-1]) for name, value in values.items()}
