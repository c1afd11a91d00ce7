"""Means and covariances of sites, read from guides, modules, draws and priors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoGuideList, AutoNormal
from torch import Tensor

from pyro_geo.errors import UnsupportedError
from pyro_geo.optim.decay.sites import SiteMoments, location_parameters
from pyro_geo.results import PosteriorDraws

__all__ = ["Fit", "SiteFit", "divergence", "read_fit", "weights_of"]

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
            `PosteriorDraws`, a module, or a mapping from site to moments of a prior or
            to a value.

    Returns:
        The sites, in double precision.

    Raises:
        UnsupportedError: it is something else.
    """
    with torch.no_grad():
        if isinstance(fitted, AutoGuide):
            return _of_guide(fitted)
        if isinstance(fitted, PosteriorDraws):
            return _of_draws(fitted)
        if isinstance(fitted, torch.nn.Module):
            named = fitted.named_parameters()
            return Fit({name: SiteFit(_flat(param)) for name, param in named})
        if isinstance(fitted, Mapping):
            return Fit({name: _of_value(value) for name, value in fitted.items()})
    raise UnsupportedError(
        "nothing to read sites from",
        where="a fit or a prior",
        found=type(fitted).__name__,
        expected="an automatic guide, draws, a module, or a mapping by site",
        todo="Pass prior_moments(model, ...) for the prior of a model.",
    )


def weights_of(posterior: PosteriorDraws) -> Tensor:
    """Normalise the weights of all draws, `(n,)`."""
    logs = posterior.log_weights
    if logs is None:
        logs = torch.zeros(posterior.positions.shape[:2])
    return torch.softmax(logs.reshape(-1).double(), 0)


def _of_value(value: Any) -> SiteFit:
    if isinstance(value, SiteMoments):
        return SiteFit(_flat(value.mean), _flat(value.sd) ** 2, None, value.normal)
    return SiteFit(_flat(torch.as_tensor(value)))


def _of_guide(guide: Any) -> Fit:
    sites: dict[str, SiteFit] = {}
    if isinstance(guide, AutoGuideList):
        parts = [_of_guide(part) for part in guide]
        for part in parts:
            sites |= part.sites
        known = [part.correlation for part in parts if part.correlation is not None]
        return Fit(sites, sum(known) if len(known) == len(parts) else None)
    places = list(location_parameters(guide))  # refuses other guides
    if isinstance(guide, AutoNormal):
        for _, param, (name,) in places:
            scale: Any = guide.scales
            for part in name.split("."):
                scale = getattr(scale, part)
            sites[name] = SiteFit(_flat(param), _flat(scale) ** 2)
        return Fit(sites)
    if isinstance(guide, AutoDelta):
        return Fit({name: SiteFit(_flat(param)) for _, param, (name,) in places})
    return _of_vector(guide, places[0][2])


def _of_vector(guide: Any, names: tuple[str, ...]) -> Fit:
    """Take the sites of one normal over all of them apart."""
    posterior = guide.get_posterior()
    mean = _flat(posterior.mean)
    dense = getattr(posterior, "covariance_matrix", None)
    covariance = None if dense is None else dense.detach().double()
    variance = _flat(posterior.variance)
    sites, start, apart = {}, 0, 0.0
    nodes: Any = guide.prototype_trace.nodes
    for name in names:
        fn = nodes[name]["fn"]
        shape = nodes[name]["value"].shape
        transform = torch.distributions.biject_to(fn.support)
        size = torch.Size(transform.inverse_shape(shape)).numel()
        rows = slice(start, start + size)
        block = None if covariance is None else covariance[rows, rows]
        if block is not None:
            apart += float(torch.logdet(block)) / 2
        sites[name] = SiteFit(mean[rows], variance[rows], block)
        start += size
    if covariance is None:
        return Fit(sites)
    return Fit(sites, apart - float(torch.logdet(covariance)) / 2)


def _of_draws(posterior: PosteriorDraws) -> Fit:
    """Match the moments of draws, weights included."""
    layout = posterior.target.layout
    q = posterior.positions.reshape(-1, layout.dim).double()
    weights = weights_of(posterior)
    sites = {}
    for name, site in layout.sites.items():
        rows = q[:, site.slice]
        mean = weights @ rows
        centred = rows - mean
        variance = weights @ centred**2
        dense = 1 < site.size <= _DENSE and len(rows) > 2 * site.size
        covariance = centred.mT @ (weights[:, None] * centred) if dense else None
        sites[name] = SiteFit(mean, variance, covariance, normal=False)
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
    if fit.covariance is None and prior.covariance is None:
        ratio = fit.variance / prior.variance
        moved = (fit.mean - prior.mean) ** 2 / prior.variance
        return float((ratio + moved - 1 - ratio.log()).sum()) / 2
    first, second = (
        site.variance.diag() if site.covariance is None else site.covariance  # pyright: ignore[reportOptionalMemberAccess]
        for site in (fit, prior)
    )
    normal = torch.distributions.MultivariateNormal
    one, other = normal(fit.mean, first), normal(prior.mean, second)
    return float(torch.distributions.kl_divergence(one, other))
