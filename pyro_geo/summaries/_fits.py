"""Means and covariances of sites, read from guides, modules, draws and priors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.mcmc.api import AbstractMCMC
from torch import Tensor

from pyro_geo.density import Layout
from pyro_geo.errors import UnsupportedError
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite
from pyro_geo.infer.fits.draws import FlatDraws, read_mcmc
from pyro_geo.infer.fits.guides import guide_parts
from pyro_geo.infer.fits.precisions import (
    covariance_of,
    from_covariance,
    kl_divergence,
    variances_of,
)
from pyro_geo.optim.decay.sites import SiteMoments
from pyro_geo.results import PosteriorDraws
from pyro_geo.summaries._normal import SiteNormal

__all__ = ["Fit", "SiteFit", "divergence", "read_fit"]

_DENSE = 200  # coordinates up to which draws give a whole covariance


class SiteFit(NamedTuple):
    """One site in unconstrained space.

    Attributes:
        mean: `(d,)`.
        variance: of each entry, `(d,)`; None for a point.
        covariance: `(d, d)`; None where entries are independent.
        normal: whether mean and covariance are all there is to it.
    """

    mean: Tensor
    variance: Tensor | None = None
    covariance: Tensor | None = None
    normal: bool = True


class Fit(NamedTuple):
    """Sites by name.

    Attributes:
        sites: the sites.
        correlation: total correlation of the sites, in nats; None where it is not
            known.
    """

    sites: dict[str, SiteFit]
    correlation: float | None = 0.0


def read_fit(fitted: Any) -> Fit:
    """Read means and covariances.

    Args:
        fitted: an automatic guide that is normal or a point in unconstrained space, a
            `GaussianPosterior`, a result with draws, a module, or a mapping from site
            to moments of a prior or to a value.

    Returns:
        The sites, in double precision.

    Raises:
        UnsupportedError: it is something else.
    """
    with torch.no_grad():
        if isinstance(fitted, AutoGuide):
            return _of_guide(fitted)
        if isinstance(fitted, SiteNormal):
            return _of_normal(fitted.loc, fitted.precision, fitted.layout)
        if isinstance(fitted, PosteriorDraws | AbstractMCMC):
            return _of_draws(read_mcmc(fitted))
        if isinstance(fitted, torch.nn.Module):
            named = fitted.named_parameters()
            return Fit({name: SiteFit(_flat(param)) for name, param in named})
        if isinstance(fitted, Mapping):
            return Fit({name: _of_value(value) for name, value in fitted.items()})
    raise UnsupportedError(
        "nothing to read sites from",
        where="a fit or a prior",
        found=type(fitted).__name__,
        expected="a guide, a posterior, draws, a module, or a mapping by site",
        todo="Pass prior_moments(model, ...) for the prior of a model.",
    )


def _of_value(value: Any) -> SiteFit:
    if isinstance(value, SiteMoments):
        return SiteFit(_flat(value.mean), _flat(value.sd) ** 2, None, value.normal)
    return SiteFit(_flat(torch.as_tensor(value)))


def _of_guide(guide: Any) -> Fit:
    """Take the sites of each part apart; the parts are independent."""
    sites: dict[str, SiteFit] = {}
    shared = 0.0
    for loc, precision, nodes, _ in guide_parts(guide):
        shapes = {n: (x["value"].shape, x["fn"].support) for n, x in nodes}
        part = _of_normal(loc, precision, Layout.from_supports(shapes))
        sites |= part.sites
        shared += part.correlation or 0.0
    return Fit(sites, shared)


def _of_normal(loc: Tensor, precision: PositiveDefinite | None, layout: Layout) -> Fit:
    """Take the sites of one normal over all of them apart."""
    places = [(name, site.slice) for name, site in layout.sites.items()]
    if precision is None:
        return Fit({name: SiteFit(loc[rows]) for name, rows in places})
    variance = variances_of(precision)
    if isinstance(precision, Diagonal):
        return Fit({n: SiteFit(loc[rows], variance[rows]) for n, rows in places})
    covariance = covariance_of(precision)
    blocks = {n: covariance[rows, rows] for n, rows in places}
    apart = sum(float(torch.logdet(block)) for block in blocks.values())
    sites = {n: SiteFit(loc[r], variance[r], blocks[n]) for n, r in places}
    return Fit(sites, (apart + float(precision.logdet())) / 2)


def _of_draws(draws: FlatDraws) -> Fit:
    """Match the moments of draws, weights included."""
    weights, (mean, centred) = draws.weights, draws.centred
    variance = weights @ centred**2
    sites = {}
    for name, site in draws.layout.sites.items():
        own, rows = centred[:, site.slice], site.slice
        dense = 1 < site.size <= _DENSE and len(own) > 2 * site.size
        covariance = own.mT @ (weights[:, None] * own) if dense else None
        sites[name] = SiteFit(mean[rows], variance[rows], covariance, normal=False)
    return Fit(sites, None)


def _flat(value: Tensor) -> Tensor:
    return value.detach().reshape(-1).double()


def divergence(fit: SiteFit, prior: SiteFit) -> float:
    r"""Compute the divergence of two normal distributions, in nats.

    .. math:: \tfrac12 \bigl[\operatorname{tr}(\Sigma_0^{-1} \Sigma)
              + (\mu - a)^\top \Sigma_0^{-1} (\mu - a) - d
              - \ln(|\Sigma| / |\Sigma_0|)\bigr]

    Args:
        fit: the first one.
        prior: the second one.

    Returns:
        The divergence; NaN where one of them is a point.
    """
    if fit.variance is None or prior.variance is None:
        return float("nan")
    first, second = (_precision(site) for site in (fit, prior))
    return kl_divergence(fit.mean, first, prior.mean, second)


def _precision(site: SiteFit) -> PositiveDefinite:
    if site.covariance is None:
        assert site.variance is not None
        return Diagonal(site.variance.rsqrt())
    return from_covariance(site.covariance)
