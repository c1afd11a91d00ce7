"""Leave-one-out cross-validation of a fit, by subject or any other axis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.arviz import get_group, smoothed_weights
from pyro_geo._showing import Shown
from pyro_geo.checks import check, check_number
from pyro_geo.density import Target
from pyro_geo.density.partial import data_scales, reweigh, weigh
from pyro_geo.errors import (
    NonFiniteDataError,
    UnreliableWeightsWarning,
    UnsupportedError,
)
from pyro_geo.evaluation.moment_matching import (
    LogDensity,
    khat_limit,
    match_moments,
    split_match,
)
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.lanes import map_lanes
from pyro_geo.ops.weights import smooth
from pyro_geo.results import PosteriorDraws

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Loo", "loo", "loo_table"]

_SAME = 1e-12
_NUMBERS = 1 << 22  # looked at together
_CACHED = 1 << 17  # log-likelihoods side by side that stay in a processor's cache
_LIMIT = 0.7  # shapes of tails above it are those of estimates not to be trusted


@dataclass(frozen=True, repr=False)
class Loo(Shown):
    """Leave-one-out cross-validation of a result.

    Attributes:
        table: one row for each datum, by site and place: `elpd` in nats, `p_loo`,
            `khat`, `khat_before` moments were matched, and the maps kept (`steps`).
        limit: largest shape of a tail to be trusted.
    """

    table: pd.DataFrame
    limit: float

    def _shown_facts(self) -> dict[str, object]:
        found = {"elpd": self.elpd, "se": self.se, "p_loo": self.p_loo}
        return {**found, "data": len(self.table), "not to be trusted": len(self.bad)}

    @property
    def elpd(self) -> float:
        """Expected log-density of data left out, summed, in nats."""
        return float(np.sum(np.asarray(self.table["elpd"])))

    @property
    def se(self) -> float:
        """Standard error of :attr:`elpd`."""
        return float(np.sqrt(len(self.table) * np.var(np.asarray(self.table["elpd"]))))

    @property
    def p_loo(self) -> float:
        """Effective number of parameters."""
        return float(np.sum(np.asarray(self.table["p_loo"])))

    @property
    def bad(self) -> pd.DataFrame:
        """Rows of the data whose estimate is not to be trusted."""
        return self.table.loc[np.asarray(self.table["khat"]) > self.limit]


def loo(
    fit: PosteriorDraws,
    *,
    moment_match: bool = False,
    limit: float | None = None,
    max_steps: int = 30,
) -> Loo:
    r"""Leave every datum of a result out, with moments matched where that is needed.

    .. math:: \mathrm{elpd}_i = \log p(y_i \mid y_{-i})

    Weights :math:`1 / p(y_i \mid \theta)` are smoothed. Where their tail is heavy, as
    for outliers, `moment_match` moves the draws towards the posterior without the datum
    (:func:`~pyro_geo.evaluation.moment_matching.match_moments`), so that no refit is
    needed.

    Args:
        fit: any result of a Pyro model or a module.
        moment_match: whether to move draws where the tail is above `limit`.
        limit: largest shape of a tail to be trusted; that for the number of draws if
            None (:func:`~pyro_geo.evaluation.moment_matching.khat_limit`).
        max_steps: maps for one datum at most.

    Returns:
        The cross-validation. A datum that is impossible at a draw is a
        :class:`~pyro_geo.errors.NonFiniteDataError`.

    Warns:
        UnreliableWeightsWarning: tails are above the limit.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC; Paananen et al. (2021), Implicitly
        adaptive importance sampling, 1906.08850.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.results import MemoryDraws
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.tensor([0.0, 0.5, -0.5]))
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = 0.5 * torch.randn(4, 250, 1, generator=generator)
        >>> found = loo(PosteriorDraws(target, MemoryDraws(target, q)))
        >>> abs(found.elpd + 3.52) < 0.1, len(found.bad)  # exactly -3.52
        (True, 0)
    """
    import pandas as pd

    check_number("limit", limit)
    target, given = fit.target, fit.log_weights
    q = fit.positions.flatten(0, -2)
    limit = khat_limit(len(q)) if limit is None else limit
    scales = {n: s for n, s in data_scales(target).items() if bool((s > 0).any())}
    likelihood = {
        name: scales[name].double() * values.double()
        for name, values in map_chunks(target.pointwise_log_likelihood, q).items()
        if name in scales
    }
    rows: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    density: Tensor | None = None
    weighted = target
    for name, values in likelihood.items():
        for place in np.ndindex(tuple(values.shape[1:])):
            each = values[(slice(None), *place)]
            if bool((each == 0).all()):  # data that are missing
                continue
            if not bool(each.isfinite().all()):
                _impossible(name, place, each)
            row = _left_out(each, given)
            if moment_match and row["khat"] > limit:
                if density is None:
                    density = map_chunks(target.log_prob, q).double()
                    weighted = weigh(target, {})
                without = {name: torch.ones_like(scales[name])}
                without[name][place] = 0.0
                less = reweigh(weighted, target, without)
                at_draws = density, density - each
                row |= _matched(q, (target, less), at_draws, given, limit, max_steps)
            inside = _log_mean(each, given)
            rows[name, place] = row | {"p_loo": inside - row["elpd"]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    if len(table):
        table.index = pd.MultiIndex.from_tuples(rows, names=["site", "place"])
    found = Loo(table, limit)
    if len(found.bad):
        warnings.warn(_unreliable(found, moment_match), stacklevel=2)
    return found


def _left_out(each: Tensor, given: Tensor | None) -> dict[str, Any]:
    """Estimate one datum from the draws as they are."""
    ratios = -each if given is None else given - each
    weights, khat = smooth(ratios)
    khat = -np.inf if np.isnan(khat) else khat  # a datum that is the same at all draws
    elpd = float((weights + each).logsumexp(0))
    return {"elpd": elpd, "khat": khat, "khat_before": khat, "steps": ()}


def _matched(
    q: Tensor,
    targets: tuple[Target, Target],
    at_draws: tuple[Tensor, Tensor],
    given: Tensor | None,
    limit: float,
    max_steps: int,
) -> dict[str, Any]:
    """Estimate one datum from draws that were moved."""
    target_data = sum(int(v.numel()) for v in targets[0].observed.values())

    def of(target: Target) -> LogDensity:
        # many rows are evaluated many times, so that tracing pays
        lifted = target.lift("log-density", _log_prob, "the log-density")
        size = max(64, _CACHED // max(1, target_data))

        def evaluate(rows: Tensor) -> Tensor:
            def part(some: Tensor) -> Tensor:
                return lifted(target.data, some, rung=target.rung)

            return map_lanes(part, rows, min(size, len(rows))).double()

        return evaluate

    sampled, wanted = (of(target) for target in targets)
    found = match_moments(
        q,
        sampled,
        wanted,
        at_draws=at_draws,
        log_weights=given,
        limit=limit,
        max_steps=max_steps,
    )
    if not found.steps:
        return {}
    half, ratio = split_match(q, sampled, found, at_draws, log_weights=given)
    elpd = float((half.log_weights - ratio).logsumexp(0))
    return {"elpd": elpd, "khat": found.khat, "steps": found.steps}


def _log_prob(target: Target, q: Tensor) -> Tensor:
    return target.log_prob(q)


def _log_mean(each: Tensor, given: Tensor | None) -> float:
    weights = torch.zeros_like(each) if given is None else given.to(each)
    return float((weights.log_softmax(0) + each).logsumexp(0))


def _impossible(name: str, place: tuple[int, ...], each: Tensor) -> None:
    draws = (~each.isfinite()).nonzero().flatten()
    raise NonFiniteDataError(
        "a datum has no finite log-likelihood, so that it cannot be taken out",
        where=f"site {name!r}, place {place}",
        found=f"{len(draws)} draws, the first {to_numpy(draws[:5]).tolist()}",
        expected="a finite log-likelihood at every draw",
        todo="Look at the model's support, and at these draws.",
    )


def _unreliable(found: Loo, matched: bool) -> UnreliableWeightsWarning:
    worst = found.bad["khat"].max()
    return UnreliableWeightsWarning(
        "data were left out by weights with a heavy tail",
        where=f"{len(found.bad)} of {len(found.table)} data",
        found=f"shape of a tail up to {worst:.2f}",
        expected=f"at most {found.limit:.2f}",
        todo="Refit without these data." if matched else "Pass moment_match=True.",
    )


def loo_table(idata: Any, by: str | None = None) -> pd.DataFrame:
    r"""Tabulate leave-one-out cross-validation of a fit by site, or along an axis.

    .. math::
        \mathrm{elpd} = \sum_i \log p(y_i \mid y_{-i})

    by Pareto-smoothed importance sampling of ArviZ, as `arviz.loo` does. Two things are
    different: data that are missing, whose log-likelihood is zero at all draws, are no
    data, and the sum may be taken for each label of an axis, such as each subject.

    What is left out is what has a likelihood of its own: a trial by
    `fit.to_arviz()`, a whole sequence by `fit.to_arviz(log_likelihood="datum")`. Trials
    of responses are independent given the parameters, and so are left out as in any
    regression. Trials of inputs are not: later ones are still predicted from the one
    that is left out.

    Args:
        idata: ArviZ data with a group `log_likelihood`.
        by: name of an axis; None for one row per site.

    Returns:
        One row per site, or per site and label: `elpd` in nats and its standard error
        `se`, the effective number of parameters `p_loo`, the number of `data`, the
        largest shape `k` of a tail and how many are above 0.7, where the estimate is
        not to be trusted.

    Raises:
        UnsupportedError: there is no log-likelihood.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC.

    Example:
        >>> from pyro_geo.io.arviz import to_arviz
        >>> draws = np.random.default_rng(0).normal(size=(4, 100, 5))
        >>> groups = {"log_likelihood": {"y": -0.1 * draws**2}}
        >>> loo_table(to_arviz(groups))[["data", "k > 0.7"]].to_dict("records")
        [{'data': 5, 'k > 0.7': 0}]
    """
    import pandas as pd

    group = get_group(idata, "log_likelihood")
    if group is None:
        raise UnsupportedError(
            "there is no log-likelihood",
            where="loo_table",
            found="ArviZ data without the group log_likelihood",
            expected="fit.to_arviz() of a Pyro model",
            todo="Leave log_likelihood of to_arviz at its default.",
        )
    rows: dict[Any, dict[str, float | int]] = {}
    for name, array in group.data_vars.items():
        if by is None:
            rows[name] = _row(*_each(array))
            continue
        good = by in array.dims[2:]
        check(good, "by", repr(by), f"an axis among {list(array.dims[2:])} of {name!r}")
        for label in array[by].values:
            part = array.sel({by: label})
            rows[name, label] = _row(*_each(part))
    table = pd.DataFrame.from_dict(rows, orient="index")
    if by is not None:
        table.index = pd.MultiIndex.from_tuples(table.index, names=["site", by])
    return table


def _each(array: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elpd, log of the mean likelihood and shape of the tail of each datum."""
    values = np.asarray(array.values, dtype=float)
    data = values.reshape(values.shape[0] * values.shape[1], -1).T
    data = data[(data != 0).any(1)]
    if not len(data):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    size = max(1, _NUMBERS // data.shape[1])
    parts = [_chunk(data[k : k + size]) for k in range(0, len(data), size)]
    elpd, inside, shapes = map(np.concatenate, zip(*parts, strict=True))
    return elpd, inside, shapes


def _chunk(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, shapes = smoothed_weights(-data)
    # what is the same at all draws, such as a first trial's, has no tail
    shapes = np.where(np.ptp(data, 1) < _SAME, -np.inf, shapes)
    inside = np.logaddexp.reduce(data, axis=1) - np.log(data.shape[1])
    return np.logaddexp.reduce(weights + data, axis=1), inside, shapes


def _row(
    elpd: np.ndarray, inside: np.ndarray, shapes: np.ndarray
) -> dict[str, float | int]:
    return {
        "elpd": float(elpd.sum()),
        "se": float(np.sqrt(len(elpd) * elpd.var())) if len(elpd) else 0.0,
        "p_loo": float((inside - elpd).sum()),
        "data": len(elpd),
        "largest k": float(shapes.max(initial=-np.inf)),
        f"k > {_LIMIT}": int((shapes > _LIMIT).sum()),
    }
