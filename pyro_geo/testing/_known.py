"""What every target with known draws has, and what they are built of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check
from pyro_geo.density import Layout, Target
from pyro_geo.density.module import PotentialDensity
from pyro_geo.density.protocol import cast

__all__ = ["HALF_LOG_TAU", "Compile", "KnownTarget", "gammas"]

Compile = Literal["auto"] | bool

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class KnownTarget(Target, ABC):
    """A normalised density with exact draws and a map to the standard normal.

    The base class of this module's targets, and of your own: give it the potential of
    one position and write :meth:`sample` and :meth:`to_normal`.

    Args:
        potential: `potential(q, *data)` of one position, with its normalising constant;
            a function that pickles where the target must.
        dim: length of a position.
        *data: numbers and tensors passed to `potential`.
        mean: of positions, `(dim,)`; NaN where there is none.
        covariance: of positions, `(dim, dim)`; infinite or NaN where there is none.
        support: of the one site, `"q"`.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Attributes:
        mean: as given, in float64.
        covariance: as given, in float64.
    """

    def __init__(
        self,
        potential: Callable[..., Tensor],
        dim: int,
        *data: float | Tensor,
        mean: Tensor,
        covariance: Tensor,
        support: constraints.Constraint = constraints.real,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(dim >= 1, "dim", dim, "at least 1")
        layout = Layout.from_supports({"q": (torch.Size([dim]), support)})
        dtype = dtype or torch.get_default_dtype()
        tensors = [torch.as_tensor(x, dtype=torch.float64) for x in data]
        super().__init__(
            PotentialDensity(potential, layout, by_site=False),
            cast(tensors, dtype),
            dtype=dtype,
            compile=compile,
        )
        self.mean = mean.double()
        self.covariance = covariance.double()

    @abstractmethod
    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions from the target itself.

        Args:
            num_draws: how many.
            generator: randomness; torch's global one when left out.

        Returns:
            Unconstrained positions, `(num_draws, dim)`.
        """

    @abstractmethod
    def to_normal(self, q: Tensor) -> Tensor:
        """Map positions so that exact draws become independent standard normal.

        Coordinate `i` is a function of the first `i` coordinates of `q`: the normal
        score of its conditional distribution (Rosenblatt's map).

        Args:
            q: positions, `(..., dim)`.

        Returns:
            Normal scores in float64, `(..., dim)`.
        """

    def _normals(
        self, num_draws: int, generator: torch.Generator | None, dim: int | None = None
    ) -> Tensor:
        dim = self.dim if dim is None else dim
        return torch.randn(num_draws, dim, generator=generator, dtype=torch.float64)


def gammas(
    shape: float, num_draws: int, dim: int, generator: torch.Generator | None
) -> Tensor:
    """Draw from Gamma(shape, 1) by inversion, `(num_draws, dim)`, in float64."""
    from scipy.special import gammaincinv

    # by inversion, so that draws depend on the generator's uniform numbers alone
    uniform = torch.rand(num_draws, dim, generator=generator, dtype=torch.float64)
    return torch.as_tensor(gammaincinv(shape, uniform.numpy()))
