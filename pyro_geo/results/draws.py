"""Draws of a result, in memory or in the store of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.density import Target
from pyro_geo.ops.chunks import Sites, map_chunks

__all__ = ["Draws", "MemoryDraws"]


class Draws(Protocol):
    """The finished draws of a run, as a result reads them.

    Tensors lead with `(chains, draws)`. Further sample axes, such as time, come next
    and count as axes of the sites here.
    """

    @property
    def num_chains(self) -> int:
        """Chains, or particles."""
        ...

    @property
    def num_draws(self) -> int:
        """Draws of each chain."""
        ...

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Sites that are tabulated, each with its shape at one draw."""
        ...

    @property
    def computed(self) -> Sequence[str]:
        """Deterministic sites that :meth:`sites` can compute."""
        ...

    @property
    def folder(self) -> str | os.PathLike[str] | None:
        """The store that alone holds the draws; None where they are in memory."""
        ...

    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, dim)`."""
        ...

    def sites(self, names: Sequence[str]) -> Sites:
        """Draws of chosen sites, site to `(chains, draws, *shape)`."""
        ...

    def stats(self) -> Mapping[str, Tensor]:
        """Statistics of the draws, name to `(chains, draws)`."""
        ...


class MemoryDraws:
    """Draws in memory.

    Args:
        target: the density, whose sites the positions hold.
        positions: `(chains, draws, *further, dim)`.
        stats: name to `(chains, draws, ...)`.

    Raises:
        ShapeError: an array does not lead with chains and draws, or positions do not
            end with the target's dimension.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> draws = MemoryDraws(target, torch.zeros(4, 10, 2))
        >>> draws.num_chains, draws.num_draws, draws.sites(["q"])["q"].shape
        (4, 10, torch.Size([4, 10, 2]))
    """

    folder = None

    def __init__(
        self,
        target: Target,
        positions: Tensor,
        stats: Mapping[str, Tensor] | None = None,
    ) -> None:
        lead = positions.shape[:2]
        arrays = {"positions": positions, **(stats or {})}
        for name, array in arrays.items():
            good = array.dim() >= 2 and array.shape[:2] == lead
            check_shape(name, array.shape, f"{tuple(lead)} and more", good)
        good = positions.dim() >= 3 and positions.shape[-1] == target.dim
        expected = f"(chains, draws, {target.dim})"
        check_shape("positions", positions.shape, expected, good)
        self.target = target
        self._positions = positions
        self._stats = dict(stats or {})

    @property
    def num_chains(self) -> int:
        """Chains, or particles."""
        return self._positions.shape[0]

    @property
    def num_draws(self) -> int:
        """Draws of each chain."""
        return self._positions.shape[1]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Latent sites, each with its shape at one draw."""
        further = self._positions.shape[2:-1]
        return {
            name: further + site.constrained_shape
            for name, site in self.target.layout.sites.items()
        }

    @property
    def computed(self) -> list[str]:
        """Names of the deterministic sites."""
        start = self._positions.new_zeros(1, self.target.dim)
        with torch.no_grad():
            return list(self.target.deterministics(start))

    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, *further, dim)`."""
        return self._positions

    def sites(self, names: Sequence[str]) -> Sites:
        """Draws of chosen sites.

        Args:
            names: latent or deterministic sites.

        Returns:
            Site to `(chains, draws, *shape)`.
        """
        sites = self.target.constrain(self._positions)
        if set(names) - set(sites):  # deterministic sites need the model
            flat = map_chunks(
                self.target.deterministics, self._positions.flatten(0, -2)
            )
            lead = self._positions.shape[:-1]
            sites |= {name: value.unflatten(0, lead) for name, value in flat.items()}
        return {name: sites[name] for name in names}

    def stats(self) -> dict[str, Tensor]:
        """Statistics of the draws, name to `(chains, draws, ...)`."""
        return self._stats
