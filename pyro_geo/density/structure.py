"""The latent sites of a Pyro model, read from a trace, and what models are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine

from pyro_geo._compat.pyro import Subsample, is_marked_deterministic
from pyro_geo.density.layout import Layout
from pyro_geo.errors import ModelError, ShapeError, UnsupportedModelError

__all__ = [
    "Values",
    "base_distribution",
    "batch_dims",
    "check_same_layout",
    "check_same_values",
    "dims_of",
    "enumerable_sites",
    "first_line",
    "is_deterministic",
    "is_enumerable",
    "layout_of",
    "random_sites",
]


def random_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample statements of a trace by name, without the sites that plates add."""
    nodes: Any = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not isinstance(site["fn"], Subsample)
    }


def is_enumerable(site: Mapping[str, Any]) -> bool:
    """Whether a site is latent with finitely many values, which are summed out."""
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and bool(getattr(site["fn"], "has_enumerate_support", False))
    )


def base_distribution(fn: Any) -> Any:
    """Take off `to_event` and `mask`, which change the score and not the draws.

    Args:
        fn: a distribution.

    Returns:
        The distribution inside.

    Example:
        >>> base_distribution(dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(False))
        Normal(loc: torch.Size([2]), scale: torch.Size([2]))
    """
    while isinstance(fn, (torch.distributions.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a site is a name for a value and no random variable.

    Args:
        site: its message in a trace.

    Returns:
        True for sites of `pyro.deterministic`, and for the point mass that a
        reparametrised site leaves in its place: observed, at its own value.
    """
    if is_marked_deterministic(site):
        return True
    # the point mass that a reparametrisation leaves
    fn = base_distribution(site["fn"])
    point = isinstance(fn, dist.Delta) and fn.v is site["value"]
    return point and bool(site["is_observed"])


class Values(NamedTuple):
    """The shape of a discrete latent site, and how many values each entry takes."""

    shape: tuple[int, ...]
    number: int


def enumerable_sites(trace: poutine.Trace) -> dict[str, Values]:
    """Find the latent sites of a trace whose values can be listed.

    Args:
        trace: of the model, with no latent site conditioned.

    Returns:
        Name to shape and number of values.

    Raises:
        UnsupportedModelError: a discrete site without a list of its values.
    """
    values = {}
    for name, site in random_sites(trace).items():
        if not is_enumerable(site):
            continue
        try:
            support = site["fn"].enumerate_support(expand=False)
        except NotImplementedError as reason:
            raise UnsupportedModelError(
                "the values of a discrete latent cannot be listed",
                where=f"site {name!r}",
                found=f"{type(site['fn']).__name__}: {first_line(reason)}",
                expected="one list of values for all entries of the site",
                todo="Give all entries the widest range, or sum it out by hand.",
            ) from reason
        values[name] = Values(tuple(site["value"].shape), len(support))
    return values


def first_line(reason: BaseException) -> str:
    """First line of another library's error, at most 200 characters."""
    return (str(reason).strip().splitlines() or ["no message"])[0][:200]


def check_same_values(
    first: Mapping[str, Values],
    second: Mapping[str, Values],
    when: str = "between runs",
) -> None:
    """Refuse a model whose discrete latent sites are not always the same.

    Args:
        first: sites of one run.
        second: sites of another.
        when: what lies between the two, for the message.

    Raises:
        ShapeError: a site has two shapes, or two numbers of values.
    """
    _check_same_names(first, second, when)
    for name in sorted(first):
        if first[name] != second[name]:
            raise ShapeError(
                f"a discrete site changed {when}",
                where=f"site {name!r}",
                found=f"{first[name]} and {second[name]}",
                expected="one fixed shape and number of values",
                todo="Fix both by the data, not by another latent.",
            )


def _check_same_names(
    first: Mapping[str, object], second: Mapping[str, object], when: str
) -> None:
    for name in sorted(set(first) ^ set(second)):
        raise ModelError(
            f"the model's latent sites changed {when}",
            where=f"site {name!r}",
            found="a site that is not in every run",
            expected="the same latent sites in every run",
            todo="Write the choice with torch.where or a mask instead of if.",
        )


def layout_of(trace: poutine.Trace) -> Layout:
    """Lay out the continuous unobserved sites of a trace, by name.

    Sites stand in the order of their names, as in Pyro. So draws do not depend on the
    order in which a model samples its sites.

    Args:
        trace: of the model, with no latent site conditioned.

    Returns:
        The layout, with plates as names of axes.

    Raises:
        ModelError: no latent site.
        UnsupportedModelError: a subsampled plate, discrete latents alone, or a latent
            that neither maps to the reals nor has finitely many values.
    """
    nodes: Any = trace.nodes
    for name, site in nodes.items():
        if site["type"] == "sample" and isinstance(site["fn"], Subsample):
            _check_not_subsampled(name, site["fn"])
    supports, dims = {}, {}
    sites = random_sites(trace)
    for name, site in sorted(sites.items()):  # by name, as Pyro has them
        if not site["is_observed"] and not is_enumerable(site):
            support = _continuous_support(name, site["fn"])
            supports[name] = (site["value"].shape, support)
            dims[name] = dims_of(name, site)
    discrete = [name for name, site in sites.items() if is_enumerable(site)]
    if not supports and discrete:
        raise UnsupportedModelError(
            "the model has no continuous latent site",
            where=f"site {discrete[0]!r}",
            found="discrete latents only",
            expected="at least one continuous latent",
            todo="Their posterior is exact with pyro.infer.infer_discrete.",
        )
    if not supports:
        raise ModelError(
            "the model has no latent site",
            where="argument model",
            found=f"sites {list(sites)}",
            expected="at least one sample statement without obs",
            todo="Leave the sites to be inferred unobserved. For the parameters of a "
            "module use Target.from_module(module, loss, data).",
        )
    return Layout.from_supports(supports, dims)


def _check_not_subsampled(name: str, fn: Any) -> None:
    if fn.subsample_size is not None and fn.subsample_size < fn.size:
        raise UnsupportedModelError(
            "subsampled plates have no fixed density",
            where=f"plate {name!r}",
            found=f"subsample_size {fn.subsample_size} of {fn.size}",
            expected="the whole plate",
            todo="Drop subsample_size; the density needs the full batch.",
        )


def _continuous_support(name: str, fn: Any) -> Any:
    # a distribution without a support, or without a map onto it, raises
    support, discrete = None, True
    try:
        support = fn.support
        discrete = support.is_discrete
        torch.distributions.biject_to(support)
    except NotImplementedError:
        discrete = True
    if not discrete:
        return support
    todo = (
        "Sum it out by hand (GammaPoisson for a Poisson of gamma rate), cut it off as "
        "a Categorical, or observe it."
    )
    base = getattr(fn, "base_dist", None)
    if getattr(base, "has_enumerate_support", False):
        todo = "Put its entries in a plate instead of to_event, to sum out each."
    raise UnsupportedModelError(
        "latent site is neither continuous nor finite",
        where=f"site {name!r}",
        found=f"{type(fn).__name__} with support {support}",
        expected="a map to real space, or finitely many discrete values",
        todo=todo,
    )


def dims_of(
    name: str, site: Mapping[str, Any], step: tuple[int, str | None] | None = None
) -> tuple[str, ...]:
    """Name all axes of a site: its plates where it has one, ArviZ's own elsewhere.

    Args:
        name: of the site.
        site: its message in a trace.
        step: axis of steps from the right and its name, where it is a sequence.

    Returns:
        One name for each axis.
    """
    shape = site["value"].shape
    batch = len(shape) - len(site["fn"].event_shape)
    if is_marked_deterministic(site):
        batch = len(shape)  # Pyro counts all its axes as one event, plates included
    event = [f"{name}_dim_{axis}" for axis in range(batch, len(shape))]
    if step is not None:
        event[step[0]] = step[1] or event[step[0]]
    return (*batch_dims(name, shape[:batch], site["cond_indep_stack"]), *event)


def batch_dims(
    name: str, shape: Sequence[int], frames: Iterable[Any]
) -> tuple[str, ...]:
    """Name the axes of a batch: plates where they have one, ArviZ's own elsewhere.

    Args:
        name: of the site.
        shape: of the batch.
        frames: of the plates around it.

    Returns:
        One name for each axis.
    """
    names = [f"{name}_dim_{axis}" for axis in range(len(shape))]
    for frame in frames:
        # plates count their axes from the right
        axis = len(shape) + frame.dim if frame.vectorized else -1
        if axis >= 0 and shape[axis] == frame.size:
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
        ShapeError: a site has two shapes.
        UnsupportedModelError: a site has two supports.
    """
    _check_same_names(first.sites, second.sites, when)
    for name, site in first.sites.items():
        other = second.sites[name]
        shapes = tuple(site.constrained_shape), tuple(other.constrained_shape)
        if shapes[0] != shapes[1]:
            raise ShapeError(
                f"a site's shape changed {when}",
                where=f"site {name!r}",
                found=f"{shapes[0]} and {shapes[1]}",
                expected="one fixed shape",
                todo="Fix the shape by the data, not by another latent.",
            )
        # Supports have no equality of their own: compare what their transforms do to a
        # few numbers.
        probe = torch.linspace(-1.0, 1.0, max(site.size, 1))[: site.size]
        probe = probe.reshape(site.shape)
        values: list[Any] = [site.transform(probe), other.transform(probe)]
        if not torch.equal(*values):
            raise UnsupportedModelError(
                f"a site's support changed {when}",
                where=f"site {name!r}",
                found="two supports in two runs",
                expected="one support, whatever the other latents and the data are",
                todo="Sample a site of fixed support and transform it; for bounded "
                "distributions, pass pyro.poutine.reparam the BallReparam or the "
                "RadialGaussianReparam of pyro_geo.distributions.",
            )
