"""Where each site stands in a flat unconstrained position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform, identity_transform

from pyro_geo.checks import check_shape
from pyro_geo.errors import LayoutMismatchError

__all__ = ["Layout", "Site"]


def apply(transform: Transform, value: Tensor) -> Tensor:
    """Call a transform. The result keeps the type of the value, not of the bounds."""
    result: Any = transform(value)
    return result.to(value.dtype)


@dataclass(frozen=True)
class Site:
    """One latent site of a flat position.

    Args:
        name: the site's name.
        start: first index in the flat position.
        shape: shape in unconstrained space.
        constrained_shape: shape of the value the model sees.
        transform: map from unconstrained to constrained space.
        dims: names of the leading constrained axes, one per plate, outermost first.
    """

    name: str
    start: int
    shape: torch.Size
    constrained_shape: torch.Size
    transform: Transform
    dims: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of flat coordinates."""
        return self.shape.numel()

    @property
    def stop(self) -> int:
        """One past the last flat index."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """Flat coordinates of the site."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Layout:
    r"""Order, shape and transform of the sites of a flat position.

    A position `q` of shape `(..., dim)` holds the unconstrained values of all
    sites one after the other. Every leading axis (chains, draws) is a batch axis.

    Args:
        sites: name to :class:`Site`, in flat order.

    Example:
        >>> layout = Layout.from_supports(
        ...     {"scale": (torch.Size([]), torch.distributions.constraints.positive)}
        ... )
        >>> layout.dim, layout.constrain(torch.zeros(2, 1))["scale"].tolist()
        (1, [1.0, 1.0])
    """

    sites: Mapping[str, Site]
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", sum(site.size for site in self.sites.values()))

    @classmethod
    def from_supports(
        cls,
        supports: Mapping[str, tuple[torch.Size, constraints.Constraint]],
        dims: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Layout:
        """Lay sites out in the given order.

        Args:
            supports: name to the constrained shape and its support.
            dims: name to the names of its leading axes.

        Returns:
            The layout whose transforms are those of `torch.distributions.biject_to`.
        """
        sites: dict[str, Site] = {}
        start = 0
        for name, (shape, support) in supports.items():
            transform = torch.distributions.biject_to(support)
            shape = torch.Size(shape)
            # a simplex of k numbers, for instance, has k - 1 free coordinates
            flat_shape = torch.Size(transform.inverse_shape(shape))
            site_dims = tuple((dims or {}).get(name, ()))
            sites[name] = Site(name, start, flat_shape, shape, transform, site_dims)
            start += flat_shape.numel()
        return cls(sites)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Join unconstrained values into flat positions.

        Args:
            values: name to `(..., *site.shape)`; the leading axes agree.

        Returns:
            Positions, `(..., dim)`. A site that is missing, unknown or of another
            shape raises :class:`~pyro_geo.errors.LayoutMismatchError`.
        """
        self._check_names(values)
        parts = []  # in the order of the layout, whatever that of `values`
        for name, site in self.sites.items():
            value = torch.as_tensor(values[name])
            self._check_shape(name, value, site.shape)
            batch = value.shape[: value.dim() - len(site.shape)]
            parts.append(value.reshape(batch + (-1,)))
        return torch.cat(parts, -1)

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        """Split flat positions into unconstrained values, `(..., *site.shape)` each.

        Raises :class:`~pyro_geo.errors.ShapeError` where the last axis is not
        `dim` long.

        Args:
            q: positions, `(..., dim)`.

        Returns:
            Name to value, views of `q` where possible.
        """
        check_shape("q", q.shape, f"(..., {self.dim})", q.shape[-1:] == (self.dim,))
        batch = q.shape[:-1]
        return {
            name: q[..., site.slice].reshape(batch + site.shape)
            for name, site in self.sites.items()
        }

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        """Map flat positions to the values the model sees.

        Args:
            q: positions, `(..., dim)`.

        Returns:
            Name to `(..., *site.constrained_shape)`.
        """
        return {
            name: apply(self.sites[name].transform, value)
            for name, value in self.unflatten(q).items()
        }

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Map constrained values to flat positions, the inverse of :meth:`constrain`.

        Args:
            values: name to `(..., *site.constrained_shape)`.

        Returns:
            Positions, `(..., dim)`. A site that is missing, unknown or of another
            shape raises :class:`~pyro_geo.errors.LayoutMismatchError`.
        """
        self._check_names(values)
        flat = {}
        for name, site in self.sites.items():
            value = torch.as_tensor(values[name])
            self._check_shape(name, value, site.constrained_shape)
            flat[name] = apply(site.transform.inv, value)
        return self.flatten(flat)

    def constrain_with_jacobian(self, q: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Map one flat position and sum its log-Jacobians.

        Args:
            q: one position, `(dim,)`.

        Returns:
            Constrained values and `log|d constrained / d unconstrained|`, `()`.
        """
        values: dict[str, Tensor] = {}
        log_jacobian = q.new_zeros(())
        for name, value in self.unflatten(q).items():
            transform = self.sites[name].transform
            values[name] = apply(transform, value)
            if transform is not identity_transform:  # its log-Jacobian is zero
                jacobian = transform.log_abs_det_jacobian(value, values[name])
                log_jacobian = log_jacobian + jacobian.sum().to(q.dtype)
        return values, log_jacobian

    def _check_names(self, values: Mapping[str, Tensor]) -> None:
        if set(values) == set(self.sites):
            return
        missing = sorted(set(self.sites) - set(values))
        unknown = sorted(set(values) - set(self.sites))
        raise LayoutMismatchError(
            "site names do not match the layout",
            where=f"site {(missing + unknown)[0]!r}",
            found=f"missing {missing}, unknown {unknown}",
            expected=f"exactly {list(self.sites)}",
            todo="Pass one value for every latent site.",
        )

    def _check_shape(self, name: str, value: Tensor, shape: torch.Size) -> None:
        if value.shape[value.dim() - len(shape) :] == shape:
            return
        raise LayoutMismatchError(
            "value has the wrong shape",
            where=f"site {name!r}",
            found=f"{tuple(value.shape)}",
            expected=f"(..., {', '.join(map(str, shape))})",
            todo="Pass the site's own shape behind any batch axes.",
        )
