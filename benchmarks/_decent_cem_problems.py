"""Functions to minimise over a box, with the minima that they are known to have."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import EliteCollapseWarning

TOY = -1.8995993491521  # sin(x) + sin(10 x / 3) on the box, at 5.1457
SHIFT = (1.3, -2.1, 0.7)
TILT = 0.3
WITHIN = 0.01  # of the global minimum counts as success


class Problem(NamedTuple):
    """A function on a box.

    Attributes:
        f: costs `(...,)` of points `(..., dim)`.
        dim: number of coordinates.
        half: the box is `[-half, half]` in each.
        lowest: its global minimum.
    """

    f: Callable[[Tensor], Tensor]
    dim: int
    half: float
    lowest: float

    @property
    def upper(self) -> Tensor:
        """Upper bounds; the lower ones are minus these."""
        return torch.full((self.dim,), self.half)

    def solved(self, fun: Tensor) -> float:
        """Share of runs that came within a hundredth of the minimum."""
        return float((fun - self.lowest < WITHIN).double().mean())


def toy(x: Tensor) -> Tensor:
    """Sum over coordinates of a function with eight minima on [-7.5, 7.5]."""
    return (torch.sin(x) + torch.sin(10.0 * x / 3.0)).sum(-1)


def double_funnel(x: Tensor) -> Tensor:
    """Two quadratic funnels: the deeper one is narrower and off the centre."""
    deep = 2.0 * (x - 2.5).square().sum(-1)
    wide = x.shape[-1] + 0.7 * (x + 2.0).square().sum(-1)
    return torch.minimum(deep, wide)


def rastrigin(x: Tensor) -> Tensor:
    """Ripples on a quadratic whose minimum is off the centre."""
    z = x - x.new_tensor(SHIFT)
    return (z.square() - 10.0 * torch.cos(2 * math.pi * z) + 10.0).sum(-1)


def double_wells(x: Tensor) -> Tensor:
    """Two wells in each coordinate, one a little deeper."""
    return ((x.square() - 4.0).square() / 4.0 + TILT * x).sum(-1)


def lowest_well() -> float:
    """The minimum of one coordinate of :func:`double_wells`, by Newton's method."""
    x = -2.0
    for _ in range(20):
        x -= (x**3 - 4 * x + TILT) / (3 * x**2 - 4)
    return (x**2 - 4) ** 2 / 4 + TILT * x


def problems() -> dict[str, Problem]:
    """The toy and the five landscapes."""
    return {
        "toy": Problem(toy, 1, 7.5, TOY),
        "toy, d = 2": Problem(toy, 2, 7.5, 2 * TOY),
        "toy, d = 4": Problem(toy, 4, 7.5, 4 * TOY),
        "double funnel, d = 6": Problem(double_funnel, 6, 5.0, 0.0),
        "shifted Rastrigin, d = 3": Problem(rastrigin, 3, 5.12, 0.0),
        "tilted wells, d = 4": Problem(double_wells, 4, 5.0, 4 * lowest_well()),
    }


@contextmanager
def single_elites() -> Iterator[None]:
    """Allow populations so small that one candidate is elite, as in the paper."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EliteCollapseWarning)
        yield
