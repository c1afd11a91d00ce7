"""Selective projection decay in `SVI`: anchors of a guide's parameters by site."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import Independent, LogNormal, Normal, biject_to

from pyro_geo.checks import check_count
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import AnchorMismatchError, UnsupportedError
from pyro_geo.ops.random import private_randomness
from pyro_geo.optim.decay.optimiser import SPD

__all__ = [
    "SiteMoments",
    "anchors_from_guide",
    "anchors_from_prior",
    "location_parameters",
    "prior_moments",
    "spd",
]

# Guides that are normal, or a point, in unconstrained space.
_FLAT = (AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)


def spd(
    optim_args: Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None = None,
    *,
    anchors: Mapping[str, Tensor],
    spd: float = 1.0,
    base: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    clip_args: Any = None,
    **options: Any,
) -> PyroOptim:
    """Make an optimiser for `SVI` that pulls some of its parameters to anchors.

    Pyro makes one torch optimiser for each parameter, so that norms are always those of
    one parameter. A parameter without an anchor is left to the base optimiser: anchors
    of locations leave the scales free.

    Args:
        optim_args: options of the base optimiser, or a function from the name of a
            parameter to them.
        anchors: name of a parameter in Pyro's store to its anchor in unconstrained
            space; :func:`anchors_from_prior` and :func:`anchors_from_guide` make them.
        spd: strength.
        base: class of the base optimiser.
        clip_args: of `pyro.optim.PyroOptim`.
        **options: further options of :class:`~pyro_geo.optim.decay.optimiser.SPD`.

    Returns:
        The optimiser.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> pyro.clear_param_store()
        >>> def model():
        ...     pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> guide = AutoNormal(model)
        >>> anchors = anchors_from_prior(model, guide)
        >>> svi = SVI(model, guide, spd({"lr": 0.01}, anchors=anchors), Trace_ELBO())
        >>> svi.step() >= 0
        True
    """

    def arguments(name: str) -> dict[str, Any]:
        own = optim_args(name) if callable(optim_args) else optim_args
        if name in anchors:
            return {**(own or {}), "anchor": [anchors[name]], "spd": spd}
        return {**(own or {}), "anchor": "free"}

    return PyroOptim(functools.partial(SPD, base=base, **options), arguments, clip_args)


def anchors_from_guide(guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Anchor the locations of a guide where they are, as after an earlier fit.

    Args:
        guide: an `AutoNormal`, a guide with one normal over all sites, an `AutoDelta`
            or an `AutoGuideList` of such.
        *args: of the model, for a guide that has not run yet.
        **kwargs: of the model.

    Returns:
        Name of each location in Pyro's store to a copy of it, unconstrained.

    Example:
        >>> import pyro.distributions as dist
        >>> pyro.clear_param_store()
        >>> guide = AutoNormal(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)))
        >>> list(anchors_from_guide(guide))
        ['AutoNormal.locs.w']
    """
    _begin(guide, args, kwargs)
    return {
        name: param.detach().clone() for name, param, _ in location_parameters(guide)
    }


def anchors_from_prior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_draws: int = 1000,
    seed: int = 0,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """Anchor the locations of a guide at the means of the prior.

    Means are those in unconstrained space: for a positive site that of its logarithm.
    They are exact for normal and log-normal sites that depend on no other, and averages
    of prior draws for the rest.

    Args:
        model: whose prior it is.
        guide: of the kinds of :func:`anchors_from_guide`.
        *args: of the model.
        num_draws: draws of the prior, where a mean has no closed form.
        seed: of the draws.
        **kwargs: of the model.

    Returns:
        Name of each location in Pyro's store to the mean. Scales have no anchor.

    Raises:
        AnchorMismatchError: the model does not have the sites of the guide.

    Example:
        >>> import pyro.distributions as dist
        >>> pyro.clear_param_store()
        >>> def model():
        ...     pyro.sample("rate", dist.LogNormal(-1.0, 0.5))
        >>> anchors_from_prior(model, AutoNormal(model))
        {'AutoNormal.locs.rate': tensor(-1.)}
    """
    _begin(guide, args, kwargs)
    prior = prior_moments(model, *args, num_draws=num_draws, seed=seed, **kwargs)
    anchors = {}
    for name, param, sites in location_parameters(guide):
        parts = [prior[site].mean.reshape(-1) for site in sites if site in prior]
        flat = torch.cat(parts) if len(parts) == len(sites) else param.new_zeros(0)
        if flat.numel() != param.numel():
            raise AnchorMismatchError(
                "the prior does not have the sites of the guide",
                where=f"parameter {name!r}",
                found=f"sites {sorted(prior)}",
                expected=f"sites {list(sites)} with {param.numel()} coordinates",
                todo="Pass the model that the guide was made for.",
            )
        anchors[name] = flat.reshape(param.shape).to(param.dtype)
    return anchors


def _begin(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a guide once that has no parameters yet."""
    with torch.no_grad(), private_randomness(0):
        if getattr(guide, "prototype_trace", None) is None:
            guide(*args, **kwargs)


def location_parameters(
    guide: Any,
) -> Iterator[tuple[str, Tensor, tuple[str, ...]]]:
    """Find the locations of a guide.

    Args:
        guide: of the kinds of :func:`anchors_from_guide`, after its first run.

    Yields:
        Name in Pyro's store, unconstrained parameter, and the sites that it holds one
        after the other.

    Raises:
        UnsupportedError: the guide is of another kind.
    """
    kind = type(guide)
    if issubclass(kind, AutoGuideList):
        for part in guide:
            yield from location_parameters(part)
    elif isinstance(guide, _FLAT) or (
        isinstance(guide, AutoContinuous) and hasattr(guide, "loc")
    ):
        prototype: Any = guide.prototype_trace
        nodes = prototype.iter_stochastic_nodes()
        sites = tuple(name for name, _ in nodes)
        yield _stored(guide.loc), guide.loc, sites
    elif isinstance(guide, AutoNormal | AutoDelta):
        holder = guide.locs if isinstance(guide, AutoNormal) else guide
        for name, param in holder.named_parameters():
            yield _stored(param), param, (name.removesuffix("_unconstrained"),)
    else:
        raise UnsupportedError(
            "the guide's locations are not known",
            where="argument guide",
            found=kind.__name__,
            expected="an automatic guide that is normal in unconstrained space",
            todo="Pass anchors by the names of the parameters in Pyro's store.",
        )


def _stored(param: Tensor) -> str:
    return str(pyro.get_param_store().param_name(param)).replace("$$$", ".")


# -- the prior ------------------------------------------------------------------------


class SiteMoments(NamedTuple):
    """A site's prior in unconstrained space.

    Attributes:
        mean: in the site's unconstrained shape.
        sd: standard deviation of each entry.
        normal: whether the prior there is normal with independent entries, so that
            mean and deviation are all of it.
    """

    mean: Tensor
    sd: Tensor
    normal: bool


def prior_moments(
    model: Callable[..., Any],
    *args: Any,
    num_draws: int = 1000,
    seed: int = 0,
    **kwargs: Any,
) -> dict[str, SiteMoments]:
    """Take mean and standard deviation of the prior of each site, unconstrained.

    Args:
        model: whose observed sites are passed over.
        *args: of the model.
        num_draws: draws, where a site has no closed form.
        seed: of the draws; the global random state is left alone.
        **kwargs: of the model.

    Returns:
        Site to its moments: in closed form for normal and log-normal sites that depend
        on no other one, else those of draws.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     mean = pyro.sample("mean", dist.Normal(1.0, 3.0))
        ...     pyro.sample("value", dist.Normal(mean, 4.0))
        >>> moments = prior_moments(model, num_draws=4000)
        >>> moments["mean"].normal, moments["value"].normal
        (True, False)
        >>> round(moments["value"].sd.item())
        5
    """
    check_count("num_draws", num_draws, 2)
    with torch.no_grad(), private_randomness(seed):
        first, second = (_latents(model, args, kwargs) for _ in range(2))
        known = {
            name: moments
            for name, site in first.items()
            if (moments := _closed_form(site)) is not None
            # parameters that depend on another site differ from run to run
            and _same(moments, _closed_form(second.get(name)))
        }
        if len(known) == len(first):
            return known
        rows: dict[str, list[Tensor]] = {name: [] for name in first}
        for _ in range(num_draws):
            for name, site in _latents(model, args, kwargs).items():
                if name not in known:
                    rows[name].append(_free(site["fn"], site["value"]))
    drawn = {name: torch.stack(row) for name, row in rows.items() if row}
    return known | {
        n: SiteMoments(q.mean(0), q.std(0), False) for n, q in drawn.items()
    }


def _latents(model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Sample the prior, and leave out discrete sites and observations."""
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    return {
        name: site
        for name, site in random_sites(trace).items()
        if not site["is_observed"] and not site["fn"].support.is_discrete
    }


def _free(fn: Any, value: Tensor) -> Tensor:
    return biject_to(fn.support).inv(value)


def _closed_form(site: Any) -> SiteMoments | None:
    if site is None:
        return None
    base = site["fn"]
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal | LogNormal):
        return None
    shape = site["value"].shape
    return SiteMoments(base.loc.expand(shape), base.scale.expand(shape), True)


def _same(first: SiteMoments, second: SiteMoments | None) -> bool:
    return second is not None and all(
        torch.equal(a, b) for a, b in zip(first[:2], second[:2], strict=True)
    )
