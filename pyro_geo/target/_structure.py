"""What a trace of a Pyro model says about its latent sites, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample

from pyro_geo.errors import ModelError, ShapeError, UnsupportedModelError, explain
from pyro_geo.target._layout import Layout

__all__ = ["check_same_layout", "dims_of", "layout_of", "random_sites"]


def random_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample statements of a trace by name, without what plates put there."""
    nodes: Any = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not isinstance(site["fn"], _Subsample)
    }


def layout_of(trace: poutine.Trace) -> Layout:
    """Lay out the unobserved sites of a trace, by name.

    In order of their names, as Pyro has them: draws then do not depend on the order in
    which a model samples its sites.

    Args:
        trace: of the model, with no latent site conditioned.

    Returns:
        The layout, with plates as names of axes. A subsampled plate, or a latent
        without a map to the reals, raises
        :class:`~pyro_geo.errors.UnsupportedModelError`.

    Raises:
        ModelError: no latent site.
    """
    nodes: Any = trace.nodes
    for name, site in nodes.items():
        if site["type"] == "sample" and isinstance(site["fn"], _Subsample):
            _check_not_subsampled(name, site["fn"])
    supports, dims = {}, {}
    sites = random_sites(trace)
    for name, site in sorted(sites.items()):
        if not site["is_observed"]:
            support = _continuous_support(name, site["fn"])
            supports[name] = (site["value"].shape, support)
            dims[name] = dims_of(name, site)
    if not supports:
        raise ModelError(
            explain(
                "the model has no latent site",
                where="argument model",
                found=f"sites {list(sites)}",
                expected="at least one sample statement without obs",
                todo="Leave the sites to be inferred unobserved.",
            )
        )
    return Layout.from_supports(supports, dims)


def _check_not_subsampled(name: str, fn: Any) -> None:
    if fn.subsample_size is not None and fn.subsample_size < fn.size:
        raise UnsupportedModelError(
            explain(
                "subsampled plates have no fixed density",
                where=f"plate {name!r}",
                found=f"subsample_size {fn.subsample_size} of {fn.size}",
                expected="the whole plate",
                todo="Drop subsample_size; the density needs the full batch.",
            )
        )


def _continuous_support(name: str, fn: Any) -> Any:
    try:
        support = fn.support
        discrete = support.is_discrete
        torch.distributions.biject_to(support)
    except NotImplementedError:
        support, discrete = None, True
    if discrete:
        raise UnsupportedModelError(
            explain(
                "latent site is discrete or has no map to real space",
                where=f"site {name!r}",
                found=f"{type(fn).__name__} with support {support}",
                expected="a continuous latent",
                todo="Sum the site out by hand (a mixture density) or observe it.",
            )
        )
    return support


def dims_of(name: str, site: Mapping[str, Any]) -> tuple[str, ...]:
    """Name all axes of a site: its plates where it has one, ArviZ's own elsewhere."""
    value = site["value"]
    batch = value.dim() - len(site["fn"].event_shape)
    if site["infer"].get("_deterministic"):
        batch = value.dim()  # Pyro counts all its axes as one event, plates included
    plates = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
    names = [f"{name}_dim_{axis}" for axis in range(value.dim())]
    for axis in range(batch):
        frame = plates.get(axis - batch)
        if frame is not None and value.shape[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)


def check_same_layout(
    first: Layout, second: Layout, when: str = "between runs"
) -> None:
    """Refuse a model whose latent sites are not always the same.

    Args:
        first: layout of one run.
        second: layout of another.
        when: what lies between the two, for the message.

    Raises:
        ModelError: a site is in one of them only.
        ShapeError: a site has two shapes.
        UnsupportedModelError: a site has two supports.
    """
    strays = sorted(set(first.sites) ^ set(second.sites))
    if strays:
        raise ModelError(
            explain(
                f"the model's latent sites changed {when}",
                where=f"site {strays[0]!r}",
                found="a site that comes or goes",
                expected="the same latent sites in every run",
                todo="Write the choice with torch.where or a mask instead of if.",
            )
        )
    for name, site in first.sites.items():
        other = second.sites[name]
        shapes = tuple(site.constrained_shape), tuple(other.constrained_shape)
        if shapes[0] != shapes[1]:
            raise ShapeError(
                explain(
                    f"a site's shape changed {when}",
                    where=f"site {name!r}",
                    found=f"{shapes[0]} and {shapes[1]}",
                    expected="one fixed shape",
                    todo="Fix the shape by the data, not by another latent.",
                )
            )
        probe = torch.linspace(-1.0, 1.0, max(site.size, 1))[: site.size]
        probe = probe.reshape(site.shape)
        values: list[Any] = [site.transform(probe), other.transform(probe)]
        if not torch.equal(*values):
            raise UnsupportedModelError(
                explain(
                    f"a site's support changed {when}",
                    where=f"site {name!r}",
                    found="two supports in two runs",
                    expected="one support, whatever the other latents and the data are",
                    todo="Sample a site of fixed support and transform it.",
                )
            )
