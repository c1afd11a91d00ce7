"""What every test and example stands on: one thread, fixed seeds, clean state."""

import gc
import os
from collections.abc import Iterator

import pyro
import pytest
import torch
from hypothesis import settings
from pyro.infer.util import is_validation_enabled
from pyro.util import get_rng_state, set_rng_state

from pyro_geo.ops.random import seed_generators

# Two workers share two cores; a thread pool in each would only get in the way.
torch.set_num_threads(1)

# Zero on every change; a nightly run sets another and prints it for the replay.
SEED = int(os.environ.get("PYRO_GEO_SEED", "0"))

settings.register_profile("fixed", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=200, deadline=None, print_blob=True)
settings.load_profile("nightly" if SEED else "fixed")


def pytest_collection_finish() -> None:
    """Keep the collector away from modules and tests: they live to the end.

    It would walk through some million objects many hundred times in a run.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    return f"pyro_geo: PYRO_GEO_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    """The seed of this run, for whatever takes `seed=` or a generator."""
    return SEED


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """Start from fixed seeds, and put back what a test may have changed."""
    before = get_rng_state()
    # fixtures of a module run before this one: what they set is not the rule
    dtype = torch.float32
    validation = is_validation_enabled()
    pyro.clear_param_store()
    seed_generators(SEED)
    yield
    pyro.clear_param_store()
    pyro.enable_validation(validation)
    torch.set_default_dtype(dtype)
    set_rng_state(before)


@pytest.fixture
def double_precision() -> None:
    """Make tensors of double precision; put back with the rest of the global state."""
    torch.set_default_dtype(torch.float64)
