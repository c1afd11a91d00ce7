"""What a guide samples, and which of its statements have no density."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoGuide,
    AutoGuideList,
    AutoNormal,
    AutoStructured,
)
from pyro.infer.autoguide.gaussian import AutoGaussian
from torch import Tensor

from pyro_geo._compat.pyro import Subsample
from pyro_geo.density.layout import Layout
from pyro_geo.density.structure import is_deterministic, random_sites
from pyro_geo.errors import ConfigurationError

__all__ = ["GuideSites", "automatic_sites", "read_sites", "refuse"]

# Pyro's guides that map auxiliary draws one to one onto the latent sites and note the
# Jacobian. A subclass with a `forward` of its own may do anything.
_AUTOMATIC = (AutoNormal, AutoContinuous, AutoStructured, AutoGaussian)
# Where a distribution keeps those that it is made of.
_PARTS = ("base_dist", "component0", "component1", "component_distribution")


class GuideSites(NamedTuple):
    """Sample statements of one run of a guide.

    Attributes:
        latent: those of the model, by name.
        auxiliary: the guide's own, by name.
    """

    latent: dict[str, Any]
    auxiliary: dict[str, Any]

    @property
    def names(self) -> frozenset[str]:
        """Names of all."""
        return frozenset(self.latent) | frozenset(self.auxiliary)


def automatic_sites(
    guide: Callable[..., Any], arguments: tuple[Any, ...], layout: Layout
) -> frozenset[str]:
    """Name the sites that Pyro's automatic guides put through an exact map.

    Args:
        guide: any guide.
        arguments: what it is called with.
        layout: of the model's latent sites.

    Returns:
        Their auxiliary and latent sites; empty for a guide of the user's.

    Raises:
        ConfigurationError: an automatic guide without a density.
    """
    if not isinstance(guide, AutoGuide):
        return frozenset()
    own = type(guide).forward
    if isinstance(guide, AutoGuideList) and own is AutoGuideList.forward:
        parts: Iterator[Any] = iter(guide)
        found = [automatic_sites(part, arguments, layout) for part in parts]
        return frozenset().union(*found)
    if not any(isinstance(guide, k) and own is k.forward for k in _AUTOMATIC):
        return frozenset()
    sites = random_sites(poutine.trace(guide).get_trace(*arguments))
    auxiliary = {n: s for n, s in sites.items() if s["infer"].get("is_auxiliary")}
    for name, site in auxiliary.items():
        if what := _without_density(site["fn"]):
            refuse(f"the guide has no density: it draws {what}", name, site)
    # a part that is left at a point draws fewer numbers than it has coordinates
    drawn = sum(site["value"].numel() for site in auxiliary.values())
    latent = [name for name in sites if name in layout.sites]
    size = sum(layout.sites[name].size for name in latent)
    kinds = getattr(guide, "conditionals", {})
    own_kinds = [name for name, kind in kinds.items() if kind not in ("normal", "mvn")]
    if drawn != size or own_kinds:
        raise ConfigurationError(
            "the guide has no density of all latent sites",
            where=f"argument guide, site {(own_kinds or latent)[0]!r}",
            found=f"{drawn} random numbers for {size} coordinates",
            expected="as many, each site 'normal' or 'mvn' given those before it",
            todo="Pass AutoStructured(model, conditionals='mvn'), say.",
        )
    return frozenset(sites)


def read_sites(
    trace: poutine.Trace, layout: Layout, automatic: frozenset[str]
) -> GuideSites:
    """Take the sites of one run of a guide, and refuse what has no density.

    Args:
        trace: of one run.
        layout: of the model's latent sites.
        automatic: sites of Pyro's automatic guides.

    Returns:
        The sites.

    Raises:
        ConfigurationError: the guide cannot be weighed.
    """
    nodes: Any = trace.nodes
    for name, node in nodes.items():
        fn = node.get("fn")
        if isinstance(fn, Subsample) and (fn.subsample_size or fn.size) < fn.size:
            refuse("the guide subsamples a plate", name, node, kind="plate")
    latent, auxiliary = {}, {}
    for name, site in random_sites(trace).items():
        if is_deterministic(site) and name not in layout.sites:
            continue
        _check_statement(name, site)
        if name in layout.sites:
            latent[name] = site
            if name not in automatic:
                _check_density(name, site)
            _check_shape(name, site, layout)
        elif site["infer"].get("is_auxiliary"):
            auxiliary[name] = site
        else:
            raise ConfigurationError(
                "the guide samples a site that the model does not have",
                where=f"argument guide, site {name!r}",
                found=f"sites {sorted(random_sites(trace))}",
                expected=f"those of the model, {sorted(layout.sites)}",
                todo="Rename it as in the model, leave it out, or mark it with "
                "infer={'is_auxiliary': True}.",
            )
    if missing := [name for name in layout.sites if name not in latent]:
        raise ConfigurationError(
            "the guide misses a site of the model",
            where=f"argument guide, site {missing[0]!r}",
            found=f"sites {sorted(latent)}",
            expected=f"a density of {sorted(layout.sites)}",
            todo="Sample it in the guide too, from its prior if nothing is known.",
        )
    return GuideSites(latent, auxiliary)


def _check_statement(name: str, site: Any) -> None:
    """Refuse statements whose score is not that of the draw."""
    if isinstance(site["fn"], dist.Unit):
        refuse("the guide has a factor", name, site)
    if site["is_observed"]:
        refuse("the guide observes a site", name, site)
    if not bool((torch.as_tensor(site["scale"]) == 1).all()):
        refuse("the guide scales a site (poutine.scale)", name, site)
    if site["mask"] is not None and not bool(torch.as_tensor(site["mask"]).all()):
        refuse("the guide masks a site (poutine.mask)", name, site)


def _check_density(name: str, site: Any) -> None:
    if what := _without_density(site["fn"]):
        refuse(f"the guide has no density: site {name!r} is {what}", name, site)


def _without_density(fn: Any) -> str | None:
    """Say why a distribution has no density of its draws, None where it has."""
    if isinstance(fn, dist.Delta):
        return "a point mass"
    if isinstance(fn, dist.Empirical):
        return "a set of points"
    if isinstance(fn, dist.MaskedDistribution):
        return "a masked distribution"
    if isinstance(fn, dist.ImproperUniform):
        return "improper"
    if "ZeroInflated" in type(fn).__name__:
        return "a distribution with a point mass"
    if _is_discrete(fn):
        return "discrete"
    if _has_map_of_torch(fn) and not all(map.bijective for map in fn.transforms):
        # torch scores one of the points that are mapped there and leaves out the others
        return "put through a map that is not one to one"
    for part in _PARTS:
        inside = getattr(fn, part, None)
        if inside is not None and (what := _without_density(inside)):
            return what
    return None


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def _has_map_of_torch(fn: Any) -> bool:
    if not isinstance(fn, torch.distributions.TransformedDistribution):
        return False
    owner = type(fn).log_prob
    return owner is torch.distributions.TransformedDistribution.log_prob


def _check_shape(name: str, site: Any, layout: Layout) -> None:
    value: Tensor = site["value"]
    expected = torch.Size(layout.sites[name].constrained_shape)
    if value.shape != expected:
        raise ConfigurationError(
            "a site of the guide has another shape than in the model",
            where=f"argument guide, site {name!r}",
            found=tuple(value.shape),
            expected=tuple(expected),
            todo="Expand the guide's distribution to that shape.",
        )


def refuse(what: str, name: str, site: Any, kind: str = "site") -> None:
    """Refuse a guide for one of its statements."""
    raise ConfigurationError(
        what,
        where=f"argument guide, {kind} {name!r}",
        found=type(site["fn"]).__name__,
        expected="a density of every latent site, as it is drawn",
        todo="Sample the site from a distribution with a density, such as "
        "dist.Normal, or train AutoMultivariateNormal.",
    )
