"""The sites that a run records of each draw, and their values at positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform
from torch.distributions.transforms import Transform

from pyro_geo.density import Site, Target
from pyro_geo.engine.commits import numpy_dtype
from pyro_geo.errors import ConfigurationError
from pyro_geo.io.store import Variable
from pyro_geo.ops.chunks import Sites, map_chunks

__all__ = ["RecordedSites"]


class RecordedSites:
    """Values of chosen sites at a target's positions.

    Args:
        target: the density.
        keep: latent and deterministic sites, all of them if None.

    Raises:
        ConfigurationError: a name that the model does not have.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> RecordedSites(target)(torch.ones(4, 5, 2))["q"].shape
        torch.Size([4, 5, 2])
    """

    def __init__(self, target: Target, keep: Sequence[str] | None = None) -> None:
        self._target = target
        latent = list(target.layout.sites)
        computed = list(target.deterministics(self._sample()[0]))
        known = [*latent, *computed]
        for name in () if keep is None else keep:
            if name not in known:
                raise ConfigurationError(
                    "there is no such site to keep",
                    where="argument keep",
                    found=repr(name),
                    expected=f"some of {known}",
                    todo="Name latent or deterministic sites of the model.",
                )
        self.latent = [name for name in latent if keep is None or name in keep]
        self.computed = [name for name in computed if keep is None or name in keep]
        self.all_latent = len(self.latent) == len(latent)
        """Whether positions can be put together from the recorded sites."""

    def __call__(self, q: Tensor, names: Sequence[str] | None = None) -> Sites:
        """Evaluate sites at draws.

        Args:
            q: positions, `(chains, draws, dim)`.
            names: of recorded sites; all of them if None.

        Returns:
            Site to `(chains, draws, *shape)`.
        """
        layout, values = self._target.layout, {}
        names = [*self.latent, *self.computed] if names is None else names
        for name in self.latent:
            if name in names:
                site = layout.sites[name]
                value: object = site.transform(
                    q[..., site.slice].reshape(q.shape[:-1] + site.shape)
                )
                assert isinstance(value, Tensor)
                values[name] = value
        computed = [name for name in self.computed if name in names]
        if computed:
            flat = map_chunks(self._target.deterministics, q.flatten(0, 1))
            values |= {name: flat[name].unflatten(0, q.shape[:2]) for name in computed}
        return values

    def unconstrained(self, q: Tensor) -> Sites:
        """Unconstrained values of the sites that have a transform.

        A store holds them beside the constrained values, so that positions come back
        bit for bit.

        Args:
            q: positions, `(..., dim)`.

        Returns:
            Site to `(..., *shape)`; nothing where latent sites are left out.
        """
        sites = self._target.layout.sites
        return {
            name: q[..., site.slice].reshape(q.shape[:-1] + site.shape)
            for name, site in sites.items()
            if self.all_latent and not _is_identity(site.transform)
        }

    def positions(self, values: Mapping[str, Tensor]) -> Tensor:
        """Put positions together again.

        Args:
            values: latent site to unconstrained values; of a site without a transform
                they are the constrained ones.

        Returns:
            Positions, `(chains, draws, dim)`.
        """
        return self._target.layout.flatten(
            {name: values[name] for name in self._target.layout.sites}
        )

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each site at one draw."""
        return {name: value.shape[2:] for name, value in self(self._sample()).items()}

    def variables(self) -> list[Variable]:
        """What a store must hold of these sites."""
        q, sites = self._sample(), self._target.layout.sites
        posterior = [
            Variable("posterior", name, tuple(value.shape[2:]), numpy_dtype(value))
            for name, value in self(q).items()
        ]
        free = [
            Variable(
                "unconstrained_posterior",
                name,
                tuple(value.shape[2:]),
                numpy_dtype(value),
                _unconstrained_dims(sites[name]),
            )
            for name, value in self.unconstrained(q).items()
        ]
        return [*posterior, *free]

    def _sample(self) -> Tensor:
        target = self._target
        return torch.full(
            (1, 1, target.dim), 0.1, dtype=target.dtype, device=target.device
        )


def _is_identity(transform: Transform) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts


def _unconstrained_dims(site: Site) -> tuple[str | None, ...]:
    """Names of a site's axes in unconstrained space."""
    # A transform that changes the shape of an event leaves no axis of it: a Cholesky
    # factor of three rows is a row of three numbers.
    if site.shape == site.constrained_shape:
        return site.dims
    batch = len(site.shape) - site.transform.domain.event_dim
    return site.dims[:batch]
