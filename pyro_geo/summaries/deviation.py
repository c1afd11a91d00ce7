"""How far each site has moved, in its prior's standard deviations and in nats."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_geo.citations import citation
from pyro_geo.errors import ConfigurationError, LayoutMismatchError
from pyro_geo.io.reports import Bars, further_tables, page_title, write_report
from pyro_geo.optim import SPD
from pyro_geo.optim.decay.sites import location_parameters
from pyro_geo.summaries._fits import Fit, SiteFit, divergence, read_fit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["deviation_page", "deviation_report"]

_STATISTICS = ("conflict_rate", "decay_rate", "mean_ratio", "path_length", "undone")
_WORDS = {
    "prior_sd": "prior standard deviations",
    "l2": "distance in unconstrained space",
}


def deviation_report(
    fitted: Any,
    anchors: Any = None,
    *,
    prior: Any = None,
    optimizer: Any = None,
) -> xr.Dataset:
    r"""Report how far each site of a fit is from its prior or its anchor.

    With the location `mu` of a site, its anchor `a` and the prior's standard deviations
    `sigma_0`, all in unconstrained space:

    .. math:: \mathrm{prior\_sd} = \sqrt{\operatorname{mean}
              \bigl(((\mu - a) / \sigma_0)^2\bigr)}, \qquad
              \mathrm{shrink} = \operatorname{mean}(\sigma / \sigma_0)

    and `kl` is the divergence of the fit from the prior in nats, as between normal
    distributions: exact where both are, which the column `normal` says, else that of
    distributions with the same moments. `kl` is 0 if and only if both agree.

    No SPD is needed: use it with any optimiser, and with draws.

    Args:
        fitted: a guide (`AutoNormal`, one normal over all sites, `AutoDelta`, or a list
            of such), a `GaussianPosterior`, a result with draws, or a module, whose
            parameters are the sites.
        anchors: where sites are measured from: a mapping by site, a module or another
            fit. By default the means of the prior, else the anchors of the optimiser.
        prior: :func:`~pyro_geo.optim.decay.sites.prior_moments` of a model, or an
            earlier fit; without it `prior_sd`, `kl` and `shrink` are NaN.
        optimizer: the `SPD` or the `PyroOptim` that fitted; where it is SPD its
            statistics are added.

    Returns:
        A dataset over `site`: `size`, `l2`, `relative` (to the norm of the anchor, NaN
        at zero), `prior_sd`, `kl`, `shrink`, `normal`, and the statistics of
        :meth:`~pyro_geo.optim.decay.optimiser.SPD.deviation`. The attribute `kl_joint`
        is the divergence of all sites together, where the prior's sites are
        independent; it exceeds the sum over sites by the total correlation of the fit.
        Anchors or a
        prior that lack a site are a :class:`~pyro_geo.errors.LayoutMismatchError`.

    Raises:
        ConfigurationError: there is nothing to measure from.

    References:
        The report is derived; the statistics follow Tian, Huang and Kira (2024),
        Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models,
        arXiv 2411.01713.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyro_geo.summaries import prior_moments
        >>> pyro.clear_param_store()
        >>> def model():
        ...     pyro.sample("w", dist.Normal(torch.zeros(2), 0.1).to_event(1))
        >>> guide = AutoNormal(model, init_loc_fn=lambda site: torch.full((2,), 0.3))
        >>> _ = guide()
        >>> report = deviation_report(guide, prior=prior_moments(model))
        >>> report.prior_sd.round(3).values.tolist(), report.kl.round(3).item()
        ([3.0], 9.0)
    """
    import xarray as xr

    fit = read_fit(fitted)
    reference = None if prior is None else read_fit(prior)
    if anchors is None:
        start = reference or _anchored(fitted, optimizer)
    else:
        start = read_fit(anchors)
    if start is None:
        raise ConfigurationError(
            "nothing to measure a deviation from",
            where="arguments anchors, prior and optimizer",
            found="none of them, or an optimiser without anchors",
            expected="one of them",
            todo="Pass prior=prior_moments(model, ...), or anchors by site.",
        )
    rows = []
    for name, site in fit.sites.items():
        mean = _of(start, name, site, "anchors").mean
        known = None if reference is None else _of(reference, name, site, "prior")
        rows.append(_row(site, mean, known))
    statistics = _statistics(fitted, optimizer)
    if statistics:
        blank = dict.fromkeys(_STATISTICS, math.nan)
        for row, name in zip(rows, fit.sites, strict=True):
            row |= {key: statistics.get(name, blank)[key] for key in _STATISTICS}
    columns = {key: ("site", [row[key] for row in rows]) for key in rows[0]}
    attrs = {"citations": ("spd",)}
    found = xr.Dataset(columns, coords={"site": list(fit.sites)}, attrs=attrs)
    independent = reference is not None and reference.correlation == 0.0
    if independent and fit.correlation is not None:
        found.attrs["kl_joint"] = float(found["kl"].sum(skipna=False)) + fit.correlation
    return found


def _row(site: SiteFit, anchor: Tensor, prior: SiteFit | None) -> dict[str, Any]:
    moved = site.mean - anchor
    l2, size = float(moved.norm()), float(anchor.norm())
    row = {
        "size": moved.numel(),
        "l2": l2,
        "relative": l2 / size if size else math.nan,
        "prior_sd": math.nan,
        "kl": math.nan,
        "shrink": math.nan,
        "normal": bool(site.normal and prior is not None and prior.normal),
    }
    if prior is not None and prior.variance is not None:
        row["prior_sd"] = float((moved**2 / prior.variance).mean().sqrt())
        row["kl"] = divergence(site, prior)
        if site.variance is not None:
            row["shrink"] = float((site.variance / prior.variance).sqrt().mean())
    return row


def _of(fit: Fit, name: str, site: SiteFit, argument: str) -> SiteFit:
    found = fit.sites.get(name)
    if found is None or found.mean.numel() != site.mean.numel():
        raise LayoutMismatchError(
            "a site is missing or has another size",
            where=f"argument {argument}, site {name!r}",
            found="none" if found is None else f"{found.mean.numel()} entries",
            expected=f"{site.mean.numel()} entries",
            todo="Pass values in unconstrained space for every site of the fit.",
        )
    return found


# -- the optimiser --------------------------------------------------------------------


def _places(fitted: Any) -> list[tuple[Tensor, tuple[str, ...]]]:
    """List the parameters that hold locations, each with its sites."""
    if isinstance(fitted, AutoGuide):
        return [(param, sites) for _, param, sites in location_parameters(fitted)]
    if isinstance(fitted, torch.nn.Module):
        return [(param, (name,)) for name, param in fitted.named_parameters()]
    return []


def _rows(optimizer: Any) -> list[tuple[Tensor, SPD, int | str]]:
    """List the parameters of an optimiser, or of the many inside Pyro's."""
    inside = getattr(optimizer, "optim_objs", None)
    found = []
    for one in [optimizer] if inside is None else inside.values():
        spd = getattr(one, "optimizer", one)  # a scheduler holds its optimiser
        if isinstance(spd, SPD):
            found += [(param, spd, label) for label, param in spd.labels().items()]
    return found


def _statistics(fitted: Any, optimizer: Any) -> dict[str, Mapping[str, float]]:
    found: dict[str, Mapping[str, float]] = {}
    tables: dict[int, Any] = {}
    for param, sites in _places(fitted):
        for own, spd, label in _rows(optimizer):
            if own is param and spd.track:
                table = tables.setdefault(id(spd), spd.deviation())
                if label in table:
                    found.update({name: table[label] for name in sites})
    return found


def _anchored(fitted: Any, optimizer: Any) -> Fit | None:
    """Take the anchors of an optimiser, where each parameter is one site."""
    anchors: dict[str, SiteFit] = {}
    for param, sites in _places(fitted):
        for own, spd, label in _rows(optimizer):
            if own is param and len(sites) == 1 and label in spd.anchors():
                anchor = spd.anchors()[label]
                value = torch.zeros_like(param) if anchor is None else anchor
                anchors[sites[0]] = SiteFit(value.detach().reshape(-1).double())
    return Fit(anchors) if anchors else None


# -- the page -------------------------------------------------------------------------


def deviation_page(
    report: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    facts: Mapping[str, object] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> Path:
    """Write a deviation report as one HTML file, with a table and a picture.

    Args:
        report: of :func:`deviation_report`.
        path: the file.
        title: heading of the page; named after the sites if None.
        facts: what was fitted, by name.
        tables: further tables by caption, which come first.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> report = deviation_report({"w": torch.ones(2)}, {"w": torch.zeros(2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     deviation_page(report, f"{folder}/page.html").name
        'page.html'
    """
    measure = "prior_sd" if bool(report["prior_sd"].notnull().any()) else "l2"
    names = [str(name) for name in report["site"].values]
    # a measure that needs a prior is no measure where there is none
    shown = report.drop_vars([k for k in report if bool(report[k].isnull().all())])
    bars = Bars(
        "How far each site has moved.",
        dict(zip(names, report[measure].values.tolist(), strict=True)),
        _WORDS[measure],
    )
    return write_report(
        None,
        path,
        title=title or page_title("Deviation by site", sites=names),
        facts=facts or {},
        citation=citation(report),
        tables={**further_tables(tables), "Deviation": shown.to_dataframe()},
        bars=[bars],
    )
