"""Examples of docstrings start from fixed seeds, as the tests do."""

import pytest

from pyro_geo.ops.random import seed_generators


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Make an example's draws the same whatever has run before it."""
    seed_generators(0)
