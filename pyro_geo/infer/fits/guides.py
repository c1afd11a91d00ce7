"""Means and precisions of Pyro's automatic guides, and of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_geo.checks import check
from pyro_geo.density import Layout
from pyro_geo.density.structure import dims_of, first_line
from pyro_geo.errors import (
    MissingCurvatureError,
    NotPositiveDefiniteError,
    UnsupportedError,
)
from pyro_geo.geometry.matrices import Cholesky, Diagonal, LowRank, PositiveDefinite
from pyro_geo.infer.fits.layouts import part_of
from pyro_geo.infer.fits.precisions import as_precision, block_diagonal, reordered
from pyro_geo.ops.random import private_randomness

__all__ = ["Moments", "Part", "guide_parts", "read_guide", "read_module"]

_KINDS = (
    AutoNormal,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoLowRankMultivariateNormal,
    AutoLaplaceApproximation,
    AutoDelta,
    AutoGuideList,
)


class Moments(NamedTuple):
    """Mean, precision and sites of a fit, and what is to be said and cited of it."""

    loc: Tensor
    precision: PositiveDefinite
    layout: Layout
    notes: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()


class Part(NamedTuple):
    """One normal of a guide.

    Attributes:
        loc: `(dim,)`, in double precision.
        precision: of it; None for a point.
        sites: name and node of each, in the order of the coordinates.
        guide: that holds them.
    """

    loc: Tensor
    precision: PositiveDefinite | None
    sites: list[tuple[str, Any]]
    guide: Any


def guide_parts(guide: Any) -> Iterator[Part]:
    """Read a guide that has run, each part of a list by itself.

    Args:
        guide: of the kinds known here. `AutoDelta` is a point, and so is
            `AutoLaplaceApproximation`, whose curvature needs the data.

    Yields:
        Its parts, independent of each other. Other guides are refused.
    """
    _check_kind(guide)
    if isinstance(guide, AutoGuideList):
        for part in guide:
            yield from guide_parts(part)
        return
    sites = list(guide.prototype_trace.iter_stochastic_nodes())
    if isinstance(guide, AutoDelta):
        free = (
            biject_to(site["fn"].support).inv(attrgetter(name)(guide))
            for name, site in sites
        )
        yield Part(_joined(free), None, sites, guide)
    elif isinstance(guide, AutoNormal):
        locs = [attrgetter(name)(guide.locs) for name, _ in sites]
        scales = (attrgetter(name)(guide.scales) for name, _ in sites)
        scale = _joined(x.expand_as(m) for m, x in zip(locs, scales, strict=True))
        yield Part(_joined(locs), Diagonal(scale.reciprocal()), sites, guide)
    else:
        point = isinstance(guide, AutoLaplaceApproximation)
        precision = None if point else _precision_of(guide)
        yield Part(_joined([guide.loc]), precision, sites, guide)


def read_guide(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], metric: Any
) -> Moments:
    """Read a guide, with its sites in the order of their names.

    Args:
        guide: after training.
        args: arguments of the model.
        kwargs: keyword arguments of the model.
        metric: precision at a point; None where the guide has one.

    Returns:
        Its moments. Guides that are not normal in unconstrained space are refused.
    """
    _check_kind(guide)
    if guide.prototype_trace is None:
        with torch.no_grad(), private_randomness(0):
            guide(*args, **kwargs)
    point = isinstance(guide, AutoDelta)
    known = "None where the guide has a precision"
    check(point or metric is None, "metric", "a metric", known)
    with torch.no_grad():
        parts = list(guide_parts(guide))
    _check_whole([site for part in parts for site in part.sites])
    supports, dims = {}, {}
    for part in parts:
        for name, site in part.sites:
            supports[name] = (site["value"].shape, site["fn"].support)
            dims[name] = dims_of(name, site)
    layout, index = part_of(Layout.from_supports(supports, dims), sorted(supports))
    loc = torch.cat([part.loc for part in parts])[index]
    if point and metric is not None:
        return Moments(loc, as_precision(metric, layout.dim), layout)
    precision = block_diagonal([_curvature(part, args, kwargs) for part in parts])
    return Moments(loc, reordered(precision, index), layout)


def _joined(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.detach().reshape(-1) for x in values]).double()


def _curvature(part: Part, args: Any, kwargs: Any) -> PositiveDefinite:
    if part.precision is not None:
        return part.precision
    if isinstance(part.guide, AutoLaplaceApproximation):
        return _laplace_of(part.guide, args, kwargs)
    _no_curvature(f"{type(part.guide).__name__}, a point")


def _precision_of(guide: Any) -> PositiveDefinite:
    scale = guide.scale.detach().double()
    if isinstance(guide, AutoDiagonalNormal):
        return Diagonal(scale.reciprocal())
    if isinstance(guide, AutoLowRankMultivariateNormal):
        # the covariance is S (I + C C') S, and C C' = U diag(s^2) U'
        factor = guide.cov_factor.detach().double()
        vectors, values, _ = torch.linalg.svd(factor, full_matrices=False)
        return LowRank(scale.reciprocal(), vectors, (1 + values**2).reciprocal())
    root = scale[:, None] * guide.scale_tril.detach().double()
    eye = torch.eye(len(scale), dtype=torch.float64, device=scale.device)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False)
    # L^-T L^-1 = R R' with R' the triangular part of a QR factorisation of L^-1
    upper = torch.linalg.qr(inverse).R
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)
    return Cholesky((signs[:, None] * upper).T.contiguous())


def _laplace_of(guide: Any, args: Any, kwargs: Any) -> PositiveDefinite:
    """Take the Hessian at the location.

    Returns:
        The precision.

    Raises:
        NotPositiveDefiniteError: the location is no mode.
    """
    try:
        with torch.enable_grad(), private_randomness(0):
            normal = guide.laplace_approximation(*args, **kwargs)
    except RuntimeError as reason:  # of the factorisation
        raise NotPositiveDefiniteError(
            "the Hessian at the location of the guide is not positive definite",
            where="argument guide",
            found=first_line(reason),
            expected="a mode of the posterior",
            todo="Train the guide further, and pass the data it was trained on.",
        ) from reason
    with torch.no_grad():
        return _precision_of(normal)


def read_module(module: torch.nn.Module, metric: Any) -> Moments:
    """Read the parameters of a module.

    Args:
        module: the module.
        metric: precision over its parameters.

    Returns:
        The moments.
    """
    named = {name: p.detach() for name, p in module.named_parameters()}
    check(bool(named), "module", type(module).__name__, "a module with parameters")
    if metric is None:
        _no_curvature(f"{type(module).__name__}, a point")
    layout = Layout.from_supports(
        {name: (p.shape, constraints.real) for name, p in named.items()}
    )
    loc = torch.cat([p.double().reshape(-1) for p in named.values()])
    return Moments(loc, as_precision(metric, layout.dim), layout)


def _check_kind(guide: Any) -> None:
    # a subclass with a forward of its own may do anything
    if any(isinstance(guide, k) and type(guide).forward is k.forward for k in _KINDS):
        return
    kind = type(guide).__name__
    if isinstance(guide, type) or not isinstance(guide, AutoGuide):
        kind = getattr(guide, "__name__", kind)
    raise UnsupportedError(
        "the guide is not known to be normal in unconstrained space",
        where="argument guide",
        found=kind,
        expected=", ".join(kind.__name__ for kind in _KINDS),
        todo="Draw from it and pass the draws to GaussianPosterior.from_samples.",
    )


def _check_whole(sites: list[tuple[str, Any]]) -> None:
    for name, site in sites:
        for frame in site["cond_indep_stack"]:
            if frame.full_size is not None and frame.full_size != frame.size:
                raise UnsupportedError(
                    "a site in a subsampled plate is not summarised",
                    where=f"site {name!r}, plate {frame.name!r}",
                    found=f"{frame.size} of {frame.full_size} at a time",
                    expected="sites that are the same in every step",
                    todo="Put such sites into a guide of their own in an "
                    "AutoGuideList, and pass the other part.",
                )


def _no_curvature(found: str) -> NoReturn:
    raise MissingCurvatureError(
        "there is no curvature, so nothing says how sure the fit is",
        where="argument metric",
        found=found,
        expected="a precision",
        todo="Pass metric=, such as the precision of pyro_geo.geometry.laplace, or "
        "train AutoMultivariateNormal.",
    )
