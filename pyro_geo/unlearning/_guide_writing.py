"""New guides with given means and precisions."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from pyro_geo._compat.pyro import rename_module
from pyro_geo.density import Layout
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite
from pyro_geo.infer.fits.precisions import covariance_of, variances_of
from pyro_geo.ops.random import private_randomness

__all__ = ["is_diagonal", "new_guide", "own_parameters"]


_NUMBER = itertools.count(1)  # of new guides, so that each has a name of its own


@contextmanager
def own_parameters() -> Iterator[None]:
    """Work on a copy of the parameter store: a model may read parameters there."""
    store = pyro.get_param_store()
    state = copy.deepcopy(store.get_state())
    with store.scope(state=state):
        yield


def is_diagonal(guide: Any) -> bool:
    """Whether the coordinates of a guide are independent."""
    return isinstance(guide, AutoNormal | AutoDiagonalNormal)


def new_guide(
    like: Any,
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layout: Layout,
    loc: Tensor,
    precision: PositiveDefinite,
) -> Any:
    """Make a guide of a model with a given mean and precision.

    Args:
        like: guide whose kind it takes, where that can hold the precision: an
            `AutoNormal` or `AutoDiagonalNormal` for a diagonal one, and an
            `AutoMultivariateNormal` for any other.
        model: of the new guide.
        args: its arguments.
        kwargs: its keyword arguments.
        layout: order of the coordinates.
        loc: the mean, `(dim,)`.
        precision: of the distribution.

    Returns:
        The guide. The parameter store of the caller is left alone.
    """
    diagonal = isinstance(precision, Diagonal) and is_diagonal(like)
    kind = type(like) if diagonal else AutoMultivariateNormal
    guide: Any = kind(model)
    # Pyro gives guides of one class the same parameters, those in its store
    rename_module(guide, f"{kind.__name__}Without{next(_NUMBER)}")
    with own_parameters(), torch.no_grad(), private_randomness(0):
        guide(*args, **kwargs)
        if isinstance(guide, AutoNormal):
            _fill_by_site(guide, layout, loc, variances_of(precision).sqrt())
        else:
            _fill_flat(guide, layout, loc, precision)
    return guide


def _fill_by_site(guide: Any, layout: Layout, loc: Tensor, sd: Tensor) -> None:
    for name, site in layout.sites.items():
        for tree, values in ((guide.locs, loc), (guide.scales, sd)):
            old = attrgetter(name)(tree)
            parent, _, last = name.rpartition(".")
            owner = attrgetter(parent)(tree) if parent else tree
            _put(owner, last, values[site.slice].reshape(old.shape).to(old))


def _fill_flat(
    guide: Any, layout: Layout, loc: Tensor, precision: PositiveDefinite
) -> None:
    names = [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
    slices = [layout.sites[name].slice for name in names]
    index = torch.cat([torch.arange(s.start, s.stop) for s in slices]).to(loc.device)
    like = guide.loc
    _put(guide, "loc", loc[index].to(like))
    if isinstance(guide, AutoDiagonalNormal):
        _put(guide, "scale", variances_of(precision).sqrt()[index].to(like))
        return
    root = torch.linalg.cholesky(covariance_of(precision)[index][:, index])
    scale = root.diagonal()
    _put(guide, "scale", scale.to(like))
    _put(guide, "scale_tril", (root / scale[:, None]).to(like))


def _put(owner: Any, name: str, value: Tensor) -> None:
    """Set a parameter, constrained or not."""
    old = dict(owner.named_parameters(recurse=False)).get(name)
    if old is not None:
        old.data = value
    else:
        setattr(owner, name, value)  # Pyro stores it unconstrained
