"""Single sites of a trace: their starts, their distributions, their densities."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.torch import switch_validation_off, validates
from pyro_geo.density._normal import normal_log_prob
from pyro_geo.density.structure import first_line, is_deterministic, is_enumerable
from pyro_geo.errors import ModelError
from pyro_geo.ops.arrays import same_values
from pyro_geo.ops.random import seed_torch

__all__ = [
    "SiteStart",
    "equal",
    "explained",
    "log_prob_of",
    "unvalidated",
    "without_deterministics",
]


# Where these are given by a covariance, our own log-density is faster. Given by a
# factor or by a precision, they need no factorisation and stay as they are.
_NORMALS = (dist.MultivariateNormal, torch.distributions.MultivariateNormal)


class SiteStart(Messenger):
    """Seed every site by its name, and draw the sites that strategies cannot start.

    An improper prior cannot be sampled: its site is drawn uniformly in unconstrained
    space. A discrete site is drawn from its prior. Because seeds come from the names,
    starts do not depend on the order in which a model samples its sites.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"].encode("utf-8", "surrogatepass")  # any text is a name
        seed_torch(self.seed ^ zlib.crc32(name))
        if isinstance(msg["fn"], dist.ImproperUniform) and msg["value"] is None:
            transform = torch.distributions.biject_to(msg["fn"].support)
            shape = transform.inverse_shape(msg["fn"].shape())
            msg["value"] = transform(4 * torch.rand(shape) - 2)
            msg["done"] = True
        elif is_enumerable(msg) and msg["value"] is None:
            msg["value"] = msg["fn"].sample()
            msg["done"] = True


def unvalidated(fn: Any) -> Any:
    """Copy a distribution so that neither it nor its base checks values.

    A check branches on the value and cannot be mapped over chains. A distribution that
    was built while validation was on, such as a prior of a `PyroModule`, keeps checking
    when validation is off.

    Returns:
        The distribution itself where nothing checks.
    """
    old = getattr(fn, "base_dist", None)
    base = None if old is None else unvalidated(old)
    if base is old and not validates(fn):
        return fn
    fn = copy.copy(fn)
    if base is not None:
        fn.base_dist = base  # first: Pyro's Independent sets the flag of its base
    switch_validation_off(fn)
    return fn


def log_prob_of(name: str, site: Mapping[str, Any]) -> Tensor:
    """Log-probability of a site's value; an error in it names the site.

    Args:
        name: of the site.
        site: its message in a trace.

    Returns:
        The log-probability, neither scaled nor masked.
    """
    with explained(name):
        fn, value = site["fn"], site["value"]
        if type(fn) in _NORMALS and "covariance_matrix" in vars(fn):
            return normal_log_prob(value - fn.loc, fn.covariance_matrix)
        return fn.log_prob(value)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Let an error in a distribution name its site.

    Args:
        name: of the site.

    Raises:
        ModelError: the distribution refused the value.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as reason:
        raise ModelError(
            "a site's log-probability cannot be computed",
            where=f"site {name!r}",
            found=f"{type(reason).__name__}: {first_line(reason)}",
            expected="a number for every value",
            todo="Check the values given there and the shapes of its parameters.",
        ) from reason


def equal(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two log-probabilities are there and the same, NaN included."""
    return first is not None and second is not None and same_values(first, second)


def without_deterministics(sites: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leave out deterministic sites, which are no random variables."""
    return ((name, site) for name, site in sites.items() if not is_deterministic(site))
