"""Layouts of posteriors: put in order by name, cut down, and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from pyro_geo.checks import check
from pyro_geo.density import Layout, Site, Target
from pyro_geo.errors import LayoutMismatchError

__all__ = ["as_layout", "check_alike", "index_of", "part_of", "same_map"]


def as_layout(sites: Any, values: Mapping[str, Tensor], num_leading: int) -> Layout:
    """Make the layout of draws.

    Args:
        sites: a target, a layout, or a mapping from site to its support or to the map
            from unconstrained to constrained values.
        values: draws by site.
        num_leading: axes of the draws before those of a site, for a mapping.

    Returns:
        The layout, sites in the order of their names.

    Raises:
        LayoutMismatchError: a site has no draws.
    """
    if isinstance(sites, Target):
        return sites.layout
    if isinstance(sites, Layout):
        return sites
    expected = "a target, a layout, or a mapping from site to support or transform"
    check(isinstance(sites, Mapping), "sites", type(sites).__name__, expected)
    found, start = {}, 0
    for name in sorted(sites):
        if name not in values:
            raise LayoutMismatchError(
                "a site has no draws",
                where=f"site {name!r}",
                found=sorted(values),
                expected=sorted(sites),
                todo="Name the sites as in the draws.",
            )
        transform = sites[name]
        if isinstance(transform, constraints.Constraint):
            transform = biject_to(transform)
        check(isinstance(transform, Transform), f"sites[{name!r}]", transform, expected)
        shape = torch.Size(torch.as_tensor(values[name]).shape[num_leading:])
        flat = torch.Size(transform.inverse_shape(shape))
        found[name] = Site(name, start, flat, shape, transform)
        start += flat.numel()
    return Layout(found)


def part_of(layout: Layout, names: Iterable[str]) -> tuple[Layout, Tensor]:
    """Take some sites of a layout, in the order given.

    Args:
        layout: all sites.
        names: those to take.

    Returns:
        Their layout, and the coordinates that they have in the old one, `(dim,)`.

    Raises:
        LayoutMismatchError: a site is unknown.
    """
    sites, index, start = {}, [torch.zeros(0, dtype=torch.long)], 0
    for name in names:
        if name not in layout.sites:
            raise LayoutMismatchError(
                "there is no such site",
                where=f"site {name!r}",
                found=repr(name),
                expected=f"one of {list(layout.sites)}",
                todo="Pass names of sites of the posterior.",
            )
        old = layout.sites[name]
        sites[name] = replace(old, start=start)
        index.append(torch.arange(old.start, old.stop))
        start += old.size
    return Layout(sites), torch.cat(index)


def same_map(first: Any, second: Any, site: Site) -> bool:
    """Whether two transforms of a site are one map, by what they do to numbers."""
    # transforms have no equality that could be relied on
    probe = torch.linspace(-1.0, 1.0, max(site.size, 1), dtype=torch.float64)
    probe = probe[: site.size].reshape(site.shape)
    values = first(probe), second(probe)
    return values[0].shape == values[1].shape and torch.allclose(*values)


def check_alike(first: Layout, other: Layout, where: str) -> None:
    """Refuse a layout that has other sites; their order does not matter.

    Args:
        first: what is expected.
        other: what was found.
        where: it was found.

    Raises:
        LayoutMismatchError: a site is missing, new, of another shape, or transformed
            otherwise.
    """
    for name in sorted(set(first.sites) | set(other.sites)):
        one, two = first.sites.get(name), other.sites.get(name)
        if one is None or two is None:
            found = "no such site" if two is None else tuple(two.constrained_shape)
            expected = "no such site" if one is None else tuple(one.constrained_shape)
        elif one.constrained_shape != two.constrained_shape or one.shape != two.shape:
            found, expected = tuple(two.constrained_shape), tuple(one.constrained_shape)
        elif not same_map(one.transform, two.transform, one):
            found, expected = str(two.transform), str(one.transform)
        else:
            continue
        raise LayoutMismatchError(
            "two posteriors are not of the same parameters",
            where=f"{where}, site {name!r}",
            found=found,
            expected=expected,
            todo="Fit one model everywhere, or pass marginal(sites) of each.",
        )


def index_of(layout: Layout, other: Layout) -> Tensor:
    """Coordinates in `other` of the sites of a layout, in its order, `(dim,)`."""
    return part_of(other, layout.sites)[1]
