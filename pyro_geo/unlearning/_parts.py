"""The density of a posterior in two parts: the data that go and those that stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.partial import data_scales, reweigh, weigh
from pyro_geo.density.tempered import TemperedModel
from pyro_geo.errors import NonFiniteDataError, PyroGeoError
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.unlearning._forget_set import ForgetSet

__all__ = ["Parts", "impossible"]

_SAME = 1e-6  # relative difference of two log-likelihoods that is rounding


@dataclass(frozen=True)
class _Apart:
    """Densities of the data that stay and of those that go, made from their rows.

    Attributes:
        stays: at the data that stay.
        goes: at the data that go.
        index: coordinates of a position that `stays` has, `(stays.dim,)`.
        goes_index: those that `goes` has, `(goes.dim,)`.
    """

    stays: Target
    goes: Target
    index: Tensor
    goes_index: Tensor


class Parts:
    """What deletion asks of a density, by the fewest evaluations there are.

    Args:
        target: density of all data.
        forget: what goes.
    """

    def __init__(self, target: Target, forget: ForgetSet) -> None:
        self.target = target
        self.forget = forget
        device = target.device
        self.masks = {name: mask.to(device) for name, mask in forget.masks.items()}
        self.scales = data_scales(target)

    # -- the data that go -----------------------------------------------------------

    def forgotten(self, q: Tensor) -> Tensor:
        """Log-likelihood of the data that go, scaled as in the density.

        Args:
            q: positions, `(draws, dim)`.

        Returns:
            In double precision, `(draws,)`; differentiable.
        """
        if self.apart is not None:
            part = q[:, self.apart.goes_index]
            return self.apart.goes.log_likelihood(part).double()
        total = torch.zeros(len(q), dtype=torch.float64, device=q.device)
        for name, values in self.target.pointwise_log_likelihood(q).items():
            mask, scale = self.masks[name], self.scales[name]
            chosen = values[:, mask] if mask.dim() else values[:, None] * mask
            factor = scale[mask] if mask.dim() else scale
            total = total + (chosen * factor).flatten(1).sum(1).double()
        return total

    def forgotten_at(self, q: Tensor) -> Tensor:
        """Log-likelihood of the data that go at any number of draws, checked.

        Args:
            q: positions, `(draws, dim)`.

        Returns:
            `(draws,)`; a value that is not finite raises
            :class:`~pyro_geo.errors.NonFiniteDataError` with the draws.
        """
        found = map_chunks(self.forgotten, q.detach())
        impossible(found, "the data to forget")
        return found

    def tempered(self, power: float) -> Target:
        """Density with the likelihood of the data that go to a power.

        Args:
            power: 1 for all data, 0 for the posterior without them.

        Returns:
            The target; every power has the same graphs.
        """
        weights = {
            name: torch.where(mask, power, 1.0) for name, mask in self.masks.items()
        }
        return reweigh(self._weighted, self.target, weights)

    @cached_property
    def _weighted(self) -> Target:
        return weigh(self.target, {})

    # -- the model of what stays ------------------------------------------------------

    @property
    def stays(self) -> Target:
        """Density of the data that stay, with none of the others in it if possible."""
        return self.tempered(0.0) if self.apart is None else self.apart.stays

    def positions(self, q: Tensor) -> Tensor:
        """Take the coordinates that :attr:`stays` has: local latents of data go.

        Args:
            q: positions, `(..., dim)`.

        Returns:
            `(..., stays.dim)`.
        """
        return q if self.apart is None else q[..., self.apart.index]

    @property
    def local(self) -> Tensor:
        """Coordinates that go with the data, `(count,)`."""
        if self.apart is None:
            return torch.zeros(0, dtype=torch.long)
        return self._gone(self.apart)

    def _gone(self, apart: _Apart) -> Tensor:
        gone = torch.ones(self.target.dim, dtype=torch.bool)
        gone[apart.index.cpu()] = False
        return gone.nonzero().flatten()

    @cached_property
    def apart(self) -> _Apart | None:
        """The two densities from split arguments; None where these do not split."""
        density = self.target.density
        if self.forget.plate is None or not isinstance(density, ModelDensity):
            return None
        try:
            return self._split(density)
        except (PyroGeoError, RuntimeError, ValueError, TypeError, IndexError):
            # a model that fails with fewer rows keeps them, with weight 0
            return None

    def _split(self, density: ModelDensity) -> _Apart | None:
        target, forget = self.target, self.forget
        args, kwargs = density.arguments(target.data)
        stays, goes = (self._at(density, *x) for x in forget.split(args, kwargs))
        index = _coordinates(target, stays, forget, forget.retained)
        goes_index = _coordinates(target, goes, forget, forget.indices)
        if index is None or goes_index is None:
            return None
        device = target.device
        found = _Apart(stays, goes, index.to(device), goes_index.to(device))
        return found if self._agrees(found) else None

    def _at(self, density: ModelDensity, args: Any, kwargs: Any) -> Target:
        target = Target.from_model(
            density.model,
            *args,
            dtype=self.target.dtype,
            compile=self.target.compile,
            **kwargs,
        )
        if isinstance(density, TemperedModel):
            return target.tempered(self.target.data[0])
        return target

    def _agrees(self, apart: _Apart) -> bool:
        """Whether the parts have the log-likelihoods that the whole says they have."""
        generator = torch.Generator().manual_seed(0)
        like = torch.zeros((), dtype=self.target.dtype, device=self.target.device)
        q = torch.randn(2, self.target.dim, generator=generator).to(like)
        with torch.no_grad():
            whole = self.target.log_likelihood(q)
            stays = self.tempered(0.0).log_likelihood(q)
            pairs = [
                (apart.stays.log_likelihood(q[:, apart.index]), stays),
                (apart.goes.log_likelihood(q[:, apart.goes_index]), whole - stays),
            ]
            if not len(self._gone(apart)):
                pairs += [(apart.stays.log_prior(q), self.target.log_prior(q))]
            scale = 1 + whole.abs()
        return all(bool(((a - b).abs() <= _SAME * scale).all()) for a, b in pairs)


def _coordinates(
    target: Target, other: Target, forget: ForgetSet, rows: Tensor
) -> Tensor | None:
    """Coordinates of the whole that a part has; None if it has others.

    Args:
        target: of all data.
        other: of some rows.
        forget: names the plate.
        rows: of the part.

    Returns:
        The coordinates, `(other.dim,)`.
    """
    whole, part = target.layout, other.layout
    if list(whole.sites) != list(part.sites):
        return None
    parts = []
    for name, site in whole.sites.items():
        index = torch.arange(site.start, site.stop).reshape(site.shape)
        if part.sites[name].shape != site.shape:
            if forget.plate not in site.dims:
                return None
            index = index.index_select(site.dims.index(forget.plate), rows)
        if index.shape != part.sites[name].shape:
            return None
        parts.append(index.flatten())
    return torch.cat(parts)


def impossible(log_prob: Tensor, what: str) -> None:
    """Refuse log-likelihoods that are not finite, naming the draws.

    Args:
        log_prob: `(draws,)`.
        what: they are of, for the message.

    Raises:
        NonFiniteDataError: there are such.
    """
    # minus infinity makes the weight infinite: leaving the draw out would be wrong
    draws = (~log_prob.isfinite()).nonzero().flatten()
    if len(draws):
        raise NonFiniteDataError(
            "a log-likelihood to be taken out is not finite",
            where=what,
            found=f"{len(draws)} draws, among them {draws[:5].tolist()}",
            expected="a finite log-likelihood at every draw",
            todo="Look at the model's support, and at these draws.",
        )
