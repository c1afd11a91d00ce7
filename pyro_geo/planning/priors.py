"""Priors of what is unknown, as rows of numbers that planners and posteriors share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent

from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import ModelError
from pyro_geo.ops.random import private_randomness, substream

__all__ = ["Prior"]

_EDGE = 1e-12  # quantiles of 0 and 1 may be infinite
_PROBES = 2000  # draws that place a parameter without a distribution function


class _Site(NamedTuple):
    """A site of the prior and the columns that it fills."""

    name: str
    law: Any
    columns: slice
    quantiles: bool


class Prior:
    r"""A prior over parameters, the columns of `theta`.

    Where a site has a quantile function, its draws are quantiles of a scrambled Sobol
    sequence, which fills the unit cube evenly; the first `n` of many draws are then
    well spread for any `n`. Other sites are drawn at random.

    Args:
        sites: name to distribution; the sites are independent. A site of several
            numbers fills several columns.

    Attributes:
        parameters: names of the columns.

    Raises:
        ModelError: there is no site.

    References:
        Owen (1998), Scrambling Sobol' and Niederreiter-Xing points, Journal of
        Complexity.

    Example:
        >>> import pyro.distributions as dist
        >>> mass, push = dist.LogNormal(0.0, 0.3), dist.Uniform(-1.0, 1.0)
        >>> prior = Prior({"mass": mass, "push": push})
        >>> prior.sample(64, seed=0).shape, prior.parameters
        (torch.Size([64, 2]), ('mass', 'push'))
    """

    def __init__(self, sites: Mapping[str, Any]) -> None:
        self._sites: list[_Site] = []
        self._sampler: Callable[[int, int], Tensor] | None = None
        self._shapes: dict[str, torch.Size] = {}
        names: list[str] = []
        for name, law in sites.items():
            shape = law.batch_shape + law.event_shape
            size = math.prod(shape)
            inner = law
            while isinstance(inner, Independent):
                inner = inner.base_dist
            whole = inner.event_shape == torch.Size() and _has_quantiles(inner)
            columns = slice(len(names), len(names) + size)
            self._sites.append(_Site(name, inner if whole else law, columns, whole))
            self._shapes[name] = shape
            names += [name] if not shape else [f"{name}[{i}]" for i in range(size)]
        if not names:
            raise ModelError(
                "a prior without parameters",
                where="argument sites",
                found="no site",
                expected="at least one name with a distribution",
                todo="Name what is unknown of the dynamics.",
            )
        self.parameters = tuple(names)
        self._placed: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_model(
        cls,
        model: Callable[..., Any],
        *args: Any,
        sites: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Prior:
        """Take the latent sites of a Pyro model, in the order in which it has them.

        Where the distribution of a site depends on another site, draws are made by
        running the model.

        Args:
            model: a Pyro model.
            *args: its arguments.
            sites: which of its sites, for models with others that the dynamics do not
                need; all when left out.
            **kwargs: its keyword arguments.

        Returns:
            The prior.

        Example:
            >>> import pyro.distributions as dist
            >>> def model():
            ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
            ...     pyro.sample("push", dist.Normal(0.0, scale))
            >>> Prior.from_model(model).factorises
            False
        """

        def latent(seed: int) -> dict[str, Any]:
            found = _latent(model, seed, args, kwargs)
            names = list(found) if sites is None else list(sites)
            known = set(names) <= set(found)
            check(known, "sites", sites, f"some of {list(found)}", error=ModelError)
            return {name: found[name] for name in names}

        first, second = latent(1), latent(2)
        prior = cls({name: site["fn"] for name, site in first.items()})
        alike = first.keys() == second.keys() and all(
            _same_law(site["fn"], second[name]["fn"], site["value"])
            for name, site in first.items()
        )
        if not alike:

            def draw(count: int, seed: int) -> Tensor:
                rows = []
                for number in range(count):
                    own = substream(seed, number)
                    parts = [
                        site["value"].double().flatten()
                        for site in latent(own).values()
                    ]
                    rows.append(torch.cat(parts))
                return torch.stack(rows)

            prior._sampler = draw
        return prior

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return [site.name for site in self._sites]

    @property
    def factorises(self) -> bool:
        """Whether no site depends on another."""
        return self._sampler is None

    def sample(self, num_draws: int, seed: int) -> Tensor:
        """Draw parameters.

        Args:
            num_draws: how many; fewer are the first of more.
            seed: the draws are a function of it alone.

        Returns:
            Draws in double precision, `(num_draws, P)`.
        """
        check_count("num_draws", num_draws)
        if self._sampler is not None:
            return self._sampler(num_draws, seed)
        theta = torch.empty(num_draws, len(self.parameters), dtype=torch.float64)
        spread = [site for site in self._sites if site.quantiles]
        total = sum(site.columns.stop - site.columns.start for site in spread)
        unit = theta[:, :0]
        if total:
            sobol = torch.quasirandom.SobolEngine(total, scramble=True, seed=seed)
            unit = sobol.draw(num_draws, dtype=torch.float64).clamp(_EDGE, 1 - _EDGE)
        used = 0
        for number, site in enumerate(self._sites):
            width = site.columns.stop - site.columns.start
            if site.quantiles:
                u = unit[:, used : used + width]
                used += width
                found = site.law.icdf(u.reshape(num_draws, *site.law.batch_shape))
            else:
                with private_randomness(substream(seed, number)):
                    found = torch.stack([site.law.sample() for _ in range(num_draws)])
            theta[:, site.columns] = found.double().reshape(num_draws, width)
        return theta

    def unit(self, theta: Tensor) -> Tensor:
        """Scale parameters to the unit cube, by the distribution function of each.

        Parameters without one are placed by the mean and the standard deviation of
        draws, as if they were normal.

        Args:
            theta: parameters, `(..., P)`.

        Returns:
            Numbers from 0 to 1, `(..., P)`.
        """
        check_shape("theta", theta.shape[-1:], (len(self.parameters),))
        mean, sd = self._places()
        scaled = torch.special.ndtr((theta.double() - mean) / sd)
        if self.factorises:
            for site in self._sites:
                if site.quantiles:
                    own = theta[..., site.columns].double()
                    own = own.reshape(*theta.shape[:-1], *site.law.batch_shape)
                    found = site.law.cdf(own).double().clamp(0, 1)
                    scaled[..., site.columns] = found.reshape(*theta.shape[:-1], -1)
        return scaled

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Take rows of parameters apart into sites.

        Args:
            theta: parameters, `(..., P)`.

        Returns:
            Site to `(..., *shape)`.
        """
        return {
            site.name: theta[..., site.columns].reshape(
                *theta.shape[:-1], *self._shapes[site.name]
            )
            for site in self._sites
        }

    def joined(self, sites: Mapping[str, Tensor]) -> Tensor:
        """Put sites together into rows of parameters, the inverse of :meth:`named`.

        Args:
            sites: site to `(..., *shape)`.

        Returns:
            Parameters, `(..., P)`.
        """
        parts = []
        for site in self._sites:
            value, own = sites[site.name], len(self._shapes[site.name])
            lead = value.shape[: value.dim() - own]
            parts.append(value.reshape(*lead, -1))
        return torch.cat(parts, -1)

    def model(self) -> Tensor:
        """Draw the parameters as sites of a Pyro model.

        Returns:
            One row of parameters, `(P,)`.
        """
        check(self.factorises, "prior", "dependent sites", "independent sites")
        sites = {}
        for site in self._sites:
            law, shape = site.law, self._shapes[site.name]
            law = law.to_event(len(shape)) if site.quantiles and shape else law
            sites[site.name] = pyro.sample(site.name, law)
        return self.joined(sites)

    def _places(self) -> tuple[Tensor, Tensor]:
        if self._placed is None:
            drawn = self.sample(_PROBES if self.factorises else 200, 0)
            self._placed = drawn.mean(0), drawn.std(0).clamp_min(1e-12)
        return self._placed

    def __repr__(self) -> str:
        return f"Prior({', '.join(self.parameters)})"


def _has_quantiles(law: Any) -> bool:
    try:
        with torch.no_grad():
            half = torch.full(law.batch_shape, 0.5)
            found = law.cdf(law.icdf(half))
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return bool(((found - half).abs() < 1e-3).all())


def _latent(
    model: Callable[..., Any], seed: int, args: Any, kwargs: Any
) -> dict[str, Any]:
    with private_randomness(seed), torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    sites = random_sites(trace).items()
    return {name: site for name, site in sites if not site["is_observed"]}


def _same_law(first: Any, second: Any, value: Tensor) -> bool:
    return bool(torch.equal(first.log_prob(value), second.log_prob(value)))
