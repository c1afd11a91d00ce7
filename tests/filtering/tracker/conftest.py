"""Levels with a lying sensor: small enough that a test takes a fraction of a second."""

import pytest
import torch
from torch import Tensor

from pyro_geo.filtering import BoundedTracker, Level, Position, Random, Stuck


@pytest.fixture(scope="session")
def tracker() -> BoundedTracker:
    """A level that walks or jumps; its step is traced once for the session."""
    motions = [Level(0.05), Level(4.0)]
    return BoundedTracker(motions, Position(1), 1.0, faults=(Random(), Stuck()))


@pytest.fixture(scope="session")
def plain() -> BoundedTracker:
    """One level and no faults: a Kalman filter."""
    return BoundedTracker(Level(0.3), Position(1), 2.0, faults=())


@pytest.fixture(scope="session")
def y() -> Tensor:
    """Five levels, with a spike, a missing report and an infinite one."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(5, 40, 1, generator=generator, dtype=torch.float64)

    y = (0.2 * noise()).cumsum(1) + noise()
    y[0, 10], y[1, 3], y[2, 7] = 100.0, torch.nan, torch.inf
    return y
