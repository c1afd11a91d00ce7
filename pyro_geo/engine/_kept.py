"""What is kept of each draw: which sites, under which names, in which space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform
from torch.distributions.transforms import Transform

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError
from pyro_geo.io.store import Variable
from pyro_geo.ops.chunks import Sites, map_chunks

__all__ = ["KeptSites", "numpy_dtype"]


class KeptSites:
    """Values of chosen sites at a target's positions.

    Args:
        target: the density.
        keep: latent and deterministic sites, all of them if None.

    Raises:
        ConfigurationError: a name that the model does not have.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> KeptSites(target)(torch.ones(4, 5, 2))["q"].shape
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
        self.whole = len(self.latent) == len(latent)
        """Whether positions can be put together from what is kept."""

    def __call__(self, q: Tensor) -> Sites:
        """Evaluate the sites at draws.

        Args:
            q: positions, `(chains, draws, dim)`.

        Returns:
            Site to `(chains, draws, *shape)`.
        """
        layout, found = self._target.layout, {}
        for name in self.latent:
            site = layout.sites[name]
            value: object = site.transform(
                q[..., site.slice].reshape(q.shape[:-1] + site.shape)
            )
            assert isinstance(value, Tensor)
            found[name] = value
        if self.computed:
            flat = map_chunks(self._target.deterministics, q.flatten(0, 1))
            for name in self.computed:
                found[name] = flat[name].unflatten(0, q.shape[:2])
        return found

    def unconstrained(self, q: Tensor) -> Sites:
        """Unconstrained values of the sites whose constrained ones are others.

        Args:
            q: positions, `(..., dim)`.

        Returns:
            Site to `(..., *shape)`; nothing where sites are left out.
        """
        sites = self._target.layout.sites
        return {
            name: q[..., site.slice].reshape(q.shape[:-1] + site.shape)
            for name, site in sites.items()
            if self.whole and not _is_identity(site.transform)
        }

    def positions(self, values: Mapping[str, Tensor]) -> Tensor:
        """Put positions together again.

        Args:
            values: site to its unconstrained values, or its constrained ones where
                the two are the same.

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
        q = self._sample()
        groups = {
            "posterior": self(q),
            "unconstrained_posterior": self.unconstrained(q),
        }
        return [
            Variable(group, name, tuple(value.shape[2:]), numpy_dtype(value))
            for group, sites in groups.items()
            for name, value in sites.items()
        ]

    def _sample(self) -> Tensor:
        target = self._target
        return torch.full(
            (1, 1, target.dim), 0.1, dtype=target.dtype, device=target.device
        )


def numpy_dtype(value: Tensor) -> np.dtype:
    """The NumPy type of a tensor's numbers."""
    return value.new_empty(0).cpu().numpy().dtype


def _is_identity(transform: Transform) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts
