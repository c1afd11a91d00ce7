"""Means and precisions of Pyro's automatic guides, and of modules."""

from __future__ import annotations

from collections.abc import Iterator
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
from pyro_geo.ops.random import private_randomness
from pyro_geo.summaries._forms import as_precision, block_diagonal, reordered
from pyro_geo.summaries._layouts import part_of

__all__ = ["Moments", "read_guide", "read_module"]

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
    """Mean, precision and sites of a fit, and what is to be said about it."""

    loc: Tensor
    precision: PositiveDefinite
    layout: Layout
    notes: tuple[str, ...] = ()


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
    with torch.no_grad():
        parts = list(_parts(guide, args, kwargs, metric))
    supports, dims = {}, {}
    for part in parts:
        for name, site in part.sites:
            supports[name] = (site["value"].shape, site["fn"].support)
            dims[name] = dims_of(name, site)
    layout, index = part_of(Layout.from_supports(supports, dims), sorted(supports))
    loc = torch.cat([part.loc.detach().double() for part in parts])[index]
    if isinstance(guide, AutoDelta):
        return Moments(loc, as_precision(metric, layout.dim), layout)
    precision = block_diagonal([part.precision for part in parts])
    return Moments(loc, reordered(precision, index), layout)


class _Part(NamedTuple):
    """One guide of a list, its sites in its own order."""

    loc: Tensor
    precision: PositiveDefinite
    sites: list[tuple[str, Any]]


def _parts(guide: Any, args: Any, kwargs: Any, metric: Any) -> Iterator[_Part]:
    _check_kind(guide)
    if isinstance(guide, AutoGuideList):
        check(metric is None, "metric", "a metric", "None for a list of guides")
        for part in guide:
            yield from _parts(part, args, kwargs, None)
        return
    sites = list(guide.prototype_trace.iter_stochastic_nodes())
    _check_whole(sites)
    if isinstance(guide, AutoDelta):
        if metric is None:
            _no_curvature(f"{type(guide).__name__}, a point")
        free = [
            biject_to(site["fn"].support).inv(attrgetter(name)(guide))
            for name, site in sites
        ]
        loc = torch.cat([x.reshape(-1) for x in free])
        yield _Part(loc, Diagonal(torch.ones_like(loc)), sites)  # metric comes later
        return
    check(metric is None, "metric", "a metric", "None where the guide has a precision")
    if isinstance(guide, AutoNormal):
        pairs = [
            (attrgetter(name)(guide.locs), attrgetter(name)(guide.scales))
            for name, _ in sites
        ]
        loc = torch.cat([x.reshape(-1) for x, _ in pairs])
        scale = torch.cat([x.expand_as(m).reshape(-1) for m, x in pairs]).double()
        yield _Part(loc, Diagonal(scale.reciprocal()), sites)
    elif isinstance(guide, AutoLaplaceApproximation):
        yield _laplace_of(guide, args, kwargs, sites)
    else:
        yield _Part(guide.loc, _precision_of(guide), sites)


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


def _laplace_of(guide: Any, args: Any, kwargs: Any, sites: Any) -> _Part:
    """Take the Hessian at the location.

    Returns:
        The part.

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
    return _Part(normal.loc, _precision_of(normal), sites)


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
