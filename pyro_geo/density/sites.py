"""Single sites of a trace: their starts, their distributions, their densities."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.torch import switch_validation_off, validates
from pyro_geo.density._normal import normal_log_prob
from pyro_geo.density.structure import first_line, is_deterministic, is_enumerable
from pyro_geo.errors import ModelError

__all__ = [
    "SiteStart",
    "equal",
    "log_prob_of",
    "unvalidated",
    "without_deterministics",
]


# given by a covariance; one of a factor or of a precision has what it needs
_NORMALS = (dist.MultivariateNormal, torch.distributions.MultivariateNormal)


class SiteStart(Messenger):
    """Give every site randomness of its own, and a value where no strategy has one.

    Improper sites have nothing to sample from, discrete ones no place to start at.
    Seeded by name, so that starts do not depend on the order of the sites.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _pyro_sample(self, msg: Any) -> None:
        torch.manual_seed(self.seed ^ zlib.crc32(msg["name"].encode()))
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

    One that was built while validation was on, as the priors of a `PyroModule` are,
    keeps checking; a check branches on the value and cannot be mapped.

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
    """Log-probability of a site's value, an error in it told by the site.

    Args:
        name: of the site.
        site: its message in a trace.

    Returns:
        The log-probability, neither scaled nor masked.

    Raises:
        ModelError: the distribution refused the value.
    """
    try:
        fn, value = site["fn"], site["value"]
        if type(fn) in _NORMALS and "covariance_matrix" in vars(fn):
            return normal_log_prob(value - fn.loc, fn.covariance_matrix)
        return fn.log_prob(value)
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
    if first is None or second is None:
        return False
    return torch.equal(first.nan_to_num(), second.nan_to_num())


def without_deterministics(sites: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leave out what is a name for a value and no random variable."""
    return ((name, site) for name, site in sites.items() if not is_deterministic(site))
