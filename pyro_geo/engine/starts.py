"""Starts of chains that a user gives, checked and laid out flat."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check_choice
from pyro_geo.density import Site, Target
from pyro_geo.density.initial import Strategy, first_bad_site, initial_each
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import (
    ConfigurationError,
    InitializationError,
    LayoutMismatchError,
)
from pyro_geo.ops.derivatives import value_and_grad

__all__ = [
    "Space",
    "Values",
    "as_values",
    "sites_of_potential",
    "start_notes",
    "start_positions",
]

Space = Literal["constrained", "unconstrained"]
Values: TypeAlias = "Mapping[str, Any]"
"""Site to a number, a list, an array or a tensor."""

_UNCONSTRAINED = 'initial_space="unconstrained"'


def as_values(initial_params: Values | None, space: Space) -> dict[str, Tensor] | None:
    """Turn what a user gave into tensors.

    Args:
        initial_params: site to a number, a list, an array or a tensor.
        space: of the values.

    Returns:
        Site to tensor, detached; None where nothing was given.

    Raises:
        ConfigurationError: no dictionary, or a value that holds other things than
            numbers.

    Example:
        >>> as_values({"mean": [0.5, 1.0]}, "constrained")
        {'mean': tensor([0.5000, 1.0000], dtype=torch.float64)}
    """
    check_choice("initial_space", space, ("constrained", "unconstrained"))
    if initial_params is None:
        return None
    if not isinstance(initial_params, Mapping):
        raise ConfigurationError(
            "starts are no dictionary",
            where="argument initial_params",
            found=type(initial_params).__name__,
            expected='site to value, as in {"mean": 0.5}',
            todo="Give one dictionary; an axis of the values is that of the chains.",
        )
    return {name: _as_tensor(name, x) for name, x in initial_params.items()} or None


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        if isinstance(value, (list, tuple)) and any(map(torch.is_tensor, value)):
            value = torch.stack([torch.as_tensor(x) for x in value])
        if not isinstance(value, Tensor):
            value = torch.from_numpy(_as_array(value))
        if not value.is_complex():
            value = value.detach()
            return value if value.layout == torch.strided else value.to_dense()
    except (TypeError, ValueError, RuntimeError):  # texts, say, or a ragged list
        pass
    raise ConfigurationError(
        "a start is no number",
        where=f"argument initial_params, site {name!r}",
        found=repr(value)[:80],
        expected="a number, a list of numbers, an array or a tensor",
        todo=f"Pass torch.as_tensor(...) for {name!r}.",
    )


def _as_array(value: Any) -> np.ndarray:
    """Bring numbers to an array that torch takes.

    Returns:
        A copy, in one of the types that both know: an array of any library may be read
        backwards, be read-only, or be in another byte order.
    """
    array = np.asarray(value)
    if np.ma.isMaskedArray(value):  # a masked entry is no number
        array = np.ma.filled(value.astype(np.float64), np.nan)
    kind, size = array.dtype.kind, array.dtype.itemsize
    real = kind == "O" and all(isinstance(x, Real) for x in array.flat)
    if real or (kind in "iuf" and (size > 8 or not array.dtype.isnative)):
        array = array.astype(np.float64)
    return np.array(array, order="C")


def sites_of_potential(
    values: Mapping[str, Tensor],
    num_chains: int,
    transforms: Mapping[str, Any],
    space: Space,
) -> dict[str, Tensor]:
    """Read the sites of a potential function off the starts of its chains.

    As in Pyro: with one chain the values are those of the sites; with several they
    have a leading axis of chains. A single number serves all chains.

    Args:
        values: of all chains.
        num_chains: of the run.
        transforms: site to the map from constrained to unconstrained values.
        space: of the values.

    Returns:
        Constrained values of one chain, of which the shapes count.

    Raises:
        ConfigurationError: the leading axis is not that of the chains.
    """
    sites = {}
    for name, value in values.items():
        if num_chains > 1 and value.dim() and len(value) != num_chains:
            shape = tuple(value.shape)
            raise ConfigurationError(
                "starts do not match the chains",
                where=f"argument initial_params, site {name!r}",
                found=f"{shape}",
                expected=f"a leading axis of {num_chains} chains",
                todo=f"Pass value.expand({num_chains}, *value.shape) to start all "
                "chains of a potential function at one value.",
            )
        one = value[0] if num_chains > 1 and value.dim() else value
        if name in transforms and space == "unconstrained":
            constrained: Any = transforms[name].inv(one)
            one = constrained
        sites[name] = one
    return sites


def start_positions(
    target: Target,
    values: Mapping[str, Tensor] | None,
    num_chains: int,
    *,
    space: Space = "constrained",
    strategy: Strategy = "uniform",
    generators: Callable[[], Sequence[torch.Generator]] = list,
) -> Tensor | None:
    """Lay the starts of all chains out flat.

    A value of a site's own shape serves all chains, one with a leading axis of chains
    has one for each, and a single number fills the site; there is no other
    broadcasting, so no value can be read in two ways. Sites without a value start by
    a strategy.

    Args:
        target: the density.
        values: site to tensor; some sites or all.
        num_chains: of the run.
        space: of the values.
        strategy: of the other sites, see :meth:`pyro_geo.Target.initial`.
        generators: gives the randomness of the other sites, one for each chain.

    Returns:
        Positions, `(chains, dim)`; None where there are no values. A bad value is a
        :class:`~pyro_geo.errors.ConfigurationError` or an
        :class:`~pyro_geo.errors.InitializationError` that names site and chain.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> start_positions(target, {"q": torch.ones(2)}, 3).shape
        torch.Size([3, 2])
    """
    if values is None:
        return None
    _check_names(target, values)
    supports = _supports(target) if space == "constrained" else {}
    kind = {"dtype": target.dtype, "device": target.device}
    known = torch.full((num_chains, target.dim), torch.nan, **kind)
    for name, value in values.items():
        site = target.layout.sites[name]
        constrained = space == "constrained"
        shape = site.constrained_shape if constrained else site.shape
        # in double precision: values near a border are told apart better there than
        # in the type of the run, in which their positions are
        rows = _one_for_each(name, value, shape, num_chains)
        rows = rows.to(device=target.device, dtype=torch.float64)
        if constrained:
            rows = _unconstrained(name, rows, site, supports.get(name))
        _check_rows(name, rows, rows.to(**kind).isfinite(), "a finite number", "")
        known[:, site.slice] = rows.reshape(num_chains, -1).to(**kind)
    if set(values) < set(target.layout.sites):
        return initial_each(target, generators(), strategy, known)
    _check_density(target, known)
    return known


# -- checks ----------------------------------------------------------------------------


def _check_names(target: Target, values: Mapping[str, Tensor]) -> None:
    """Refuse what is no continuous latent site, and say what it is."""
    sites = list(target.layout.sites)
    for name in values:
        if name in sites:
            continue
        near = difflib.get_close_matches(name, sites, 1)
        what, todo = "no such site", f"Did you mean {near[0]!r}?" if near else ""
        if isinstance(density := target.density, ModelDensity):
            if name in density.enumerated:
                what, todo = "a discrete site, which is summed out", "Leave it out."
            elif name in target.observed:
                what, todo = "an observed site", "Leave it out, it has its data."
            elif name in density.dims:
                what, todo = "a computed site", "Give what it is computed from."
        raise LayoutMismatchError(
            "there is no such site to start",
            where=f"argument initial_params, site {name!r}",
            found=what,
            expected=f"some of {sites}",
            todo=todo or "Give latent sites of the model.",
        )


def _one_for_each(
    name: str, value: Tensor, shape: torch.Size, num_chains: int
) -> Tensor:
    """Bring a value to `(chains, *shape)`."""
    each = torch.Size([num_chains, *shape])
    if value.shape == each:
        return value
    if value.shape == shape or not value.dim():
        return value.expand(each)
    raise ConfigurationError(
        "starts do not match the chains",
        where=f"argument initial_params, site {name!r}",
        found=f"{tuple(value.shape)}",
        expected=f"{tuple(each)}, one value for each chain, or {tuple(shape)}, one "
        "for all",
        todo="Pass one of these shapes, with a leading axis of chains or without.",
    )


def _supports(target: Target) -> dict[str, Any]:
    """Supports of a model's sites; others have none but what their transforms take."""
    if not isinstance(target.density, ModelDensity):
        return {}
    nodes: Any = target.density.prior_trace(target.data, 0).nodes
    return {name: nodes[name]["fn"].support for name in target.layout.sites}


def _unconstrained(name: str, rows: Tensor, site: Site, support: Any) -> Tensor:
    """Map constrained values to unconstrained ones; refuse those outside."""
    good = rows.isfinite()
    if support is not None:
        batch = rows.dim() - support.event_dim
        inside = support.check(rows).expand(rows.shape[:batch])
        good = good & inside.reshape(inside.shape + (1,) * support.event_dim)
    hint = f", or {_UNCONSTRAINED} for values on the real line"
    expected = "a value that its transform takes"
    if support is not None:
        expected = f"a value in {support}"
    _check_rows(name, rows, good, expected, hint)
    q: Any = site.transform.inv(rows)
    # the border of a support is infinitely far away, where a transform cuts that or not
    finite = _all_of_each(q.isfinite()) & ~_any_of_each(_on_border(rows, support))
    finite = finite.reshape(-1, *[1] * (rows.dim() - 1)).expand(rows.shape)
    _check_rows(name, rows, finite, f"{expected}, off its border", hint)
    return q


def _on_border(rows: Tensor, support: Any) -> Tensor:
    """Which entries are at a bound of an interval, or zero in a simplex."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    border = torch.zeros_like(rows, dtype=torch.bool)
    if support is constraints.simplex:
        return rows == 0
    for name in ("lower_bound", "upper_bound"):
        if (bound := getattr(support, name, None)) is not None:
            border = border | (rows == bound)
    return border


def _any_of_each(bad: Tensor) -> Tensor:
    """Whether any entry is bad, for each chain, `(chains,)`."""
    return ~_all_of_each(~bad)


def _all_of_each(good: Tensor) -> Tensor:
    """Whether all entries are good, for each chain, `(chains,)`."""
    return good.reshape(len(good), good[0].numel()).all(1)


def _check_rows(
    name: str, rows: Tensor, good: Tensor, expected: str, hint: str
) -> None:
    """Refuse rows, one for each chain, that are not good in all their entries."""
    bad = (~_all_of_each(good)).nonzero().flatten()
    if not len(bad):
        return
    chain = int(bad[0])
    entries = rows[chain].flatten()[:4].tolist()
    raise InitializationError(
        "a start is outside its support",
        where=f"argument initial_params, site {name!r}, chain {chain}",
        found=entries[0] if rows.dim() == 1 else entries,
        expected=expected,
        todo=f"Pass such a value{hint}.",
    )


def _check_density(target: Target, q: Tensor) -> None:
    """Refuse a start where the density or its gradient is not finite."""
    log_prob, grad = value_and_grad(target.log_prob, q)
    bad = (~(log_prob.isfinite() & grad.isfinite().all(-1))).nonzero().flatten()
    if len(bad):
        chain = int(bad[0])
        raise InitializationError(
            "a start has no finite density",
            where=f"argument initial_params, chain {chain}, "
            f"{first_bad_site(target, q[chain])}",
            found=f"log-density {float(log_prob[chain])}",
            expected="a finite log-density and gradient",
            todo="Start inside the support of the model.",
        )


def start_notes(initial: Tensor | None) -> list[str]:
    """Note that R-hat has lost its dispersed starts, where a user gave one for all.

    Args:
        initial: starts of all chains, `(chains, dim)`; None where the user gave none.

    Returns:
        At most one note.
    """
    if initial is None or len(initial) < 2 or bool((initial != initial[0]).any()):
        return []
    text = "All chains start at one point (initial_params), so R-hat cannot show modes"
    return [f"{text} that none of them finds."]
